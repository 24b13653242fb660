"""Success probabilities: Lemmas 1, 5 to 8 of Safaryan and Richtárik, exactly."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

import ef_optax
from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.laws import UNIMODAL, drawn, most_errors_off


def lemma_1(config: Any) -> tuple[list[Curve], list[Curve], float]:
    """P[wrong sign] = 1 - ρ under Lemma 1 and under its improvement.

    Bounds of ρ from below are bounds of 1 - ρ from above.

    Returns:
      The curves under the lemma, those under the improvement, and by how many standard
      errors the library's estimates are off at most.
    """
    s = np.geomspace(0.02, 6, config.signals)
    plain, improved = (
        [Curve(law.name, s, [law.wrong(s)], 1 - bounds.right_sign(s, better))
         for law in UNIMODAL]
        for better in (False, True)
    )
    off = max(
        most_errors_off(drawn(law, s[s < 3], config.samples, 10 + seed))
        for seed, law in enumerate(UNIMODAL) if law.draw is not None
    )
    return plain, improved, off


class Batches(NamedTuple):
    """Lemma 7 on two-point laws.

    Attributes:
      chance: p, of the rare value 1; the other is -b.
      mean: of the law, in units of the rare value.
      enough: the mini-batch that suffices by the lemma.
      needed: the least from which on all mini-batches are right more often than not,
        up to the largest one tried.
      least: the smallest P[right sign] of all mini-batches above `enough`.
    """

    chance: np.ndarray
    mean: np.ndarray
    enough: np.ndarray
    needed: np.ndarray
    least: np.ndarray


def lemma_7(config: Any) -> Batches:
    """Two-point laws, skewed both ways: exact chances of every mini-batch."""
    rows = []
    for p in config.chances:
        # The other value is -b with b from far below to just under p/(1-p).
        for share in config.shares:
            b = share * p / (1 - p)
            mean = p - (1 - p) * b
            variance = p * (1 - p) * (1 + b) ** 2
            third = p * (1 - mean) ** 3 + (1 - p) * (mean + b) ** 3
            enough = float(bounds.enough_samples(mean, variance, third))
            sizes = np.arange(1, min(config.most_samples, 4 * math.ceil(enough) + 9))
            # Right if the k rare values of τ outweigh the others: k > τ b/(1+b).
            least = np.floor(sizes * b / (1 + b) * (1 + 1e-12))
            right = scipy.stats.binom.sf(least, sizes, p)
            wrong = np.flatnonzero(right <= 0.5)
            needed = int(sizes[wrong[-1]]) + 1 if wrong.size else 1
            above = right[sizes > enough]
            rows.append((p, mean, enough, needed, above.min() if above.size else 1.0))
    return Batches(*np.asarray(rows, np.float64).T)


def small_batches(config: Any) -> tuple[list[Curve], list[Curve]]:
    """P[wrong sign] of mini-batches of skewed draws under Lemmas 5 and 6."""
    sizes = np.unique(np.geomspace(1, 2000, config.signals).astype(int))
    chebyshev, berry = [], []
    for p, b in ((0.1, 0.02), (0.5, 0.8), (0.9, 3.0)):
        mean = p - (1 - p) * b
        deviation = math.sqrt(p * (1 - p)) * (1 + b)
        third = p * (1 - mean) ** 3 + (1 - p) * (mean + b) ** 3
        least = np.floor(sizes * b / (1 + b) * (1 + 1e-12))
        # At least what float64 tells apart from 0.
        wrong = scipy.stats.binom.cdf(least, sizes, p)
        label = f"P(1) = {p:g}, else {-b:g}"
        far = scipy.special.erf(mean * np.sqrt(sizes / 2) / deviation)
        chebyshev.append(Curve(label, sizes, [wrong], deviation**2 / sizes / mean**2))
        berry.append(Curve(
            label, sizes, [wrong],
            0.5 * (1 - far + third / (deviation**3 * np.sqrt(sizes))),
        ))
    return chebyshev, berry


class Votes(NamedTuple):
    """Lemma 8 and the variance reduction of B.8.

    Attributes:
      even: the largest difference of the exact weights of 2l - 1 and 2l workers.
      formula: that of the exact weights and 2I(ρ; l, l) - 1.
      library: that of the library's ρ_M-norm and the exact weights.
      hoeffding: the largest of (1 - exp(-(2ρ-1)²l)) ÷ weight.
    """

    even: float
    formula: float
    library: float
    hoeffding: float


def lemma_8(config: Any) -> Votes:
    """Exact sums over votes, ties counting 0, against the regularised beta function."""
    rho = np.linspace(0.505, 0.995, 50)
    even, formula, library, part = 0.0, 0.0, 0.0, 0.0
    for half in range(1, config.most_votes + 1):
        weights = [
            # P[more than half are right] - P[fewer than half are].
            scipy.stats.binom.sf(m // 2, m, rho)
            - scipy.stats.binom.cdf((m - 1) // 2, m, rho)
            for m in (2 * half - 1, 2 * half)
        ]
        even = max(even, float(np.abs(weights[0] - weights[1]).max()))
        wanted = bounds.vote_weight(2 * half, rho)
        formula = max(formula, float(np.abs(weights[1] - wanted).max()))
        part = max(part, float(
            ((1 - np.exp(-((2 * rho - 1) ** 2) * half)) / weights[0]).max()
        ))
        if half <= 16:
            own = [float(ef_optax.measures.rho_m_norm(
                jnp.ones(1), jnp.float32([r]), 2 * half
            )) for r in rho[::10]]
            library = max(library, float(np.abs(weights[1][::10] - own).max()))
    return Votes(even, formula, library, part)

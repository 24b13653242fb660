"""One sign, and a vote on it: how often they are wrong, exactly and as drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import ef_optax
from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.laws import TWO_POINTS, UNIMODAL, drawn, most_errors_off
from experiments.rates.problems import (
    SKEWED,
    SKEWED_CHANCE,
    SKEWED_DEVIATION,
    SKEWED_MEAN,
    SKEWED_VALUES,
)


def signals(config: Any) -> np.ndarray:
    """Returns values of S = |g|/σ; Lemma D.1 changes its form at 2/√3."""
    return np.geomspace(0.02, 6, config.signals)


def lemma_d1(config: Any) -> tuple[list[Curve], float]:
    """P[wrong sign] under Lemma D.1 for unimodal symmetric laws.

    Returns:
      The exact curves, and by how many standard errors the library's estimates are
      off from them at most.
    """
    s = signals(config)
    curves = [
        Curve(law.name, s, [law.wrong(s)], bounds.wrong_sign(s)) for law in UNIMODAL
    ]
    off = max(
        most_errors_off(drawn(law, s[s < 3], config.samples, seed))
        for seed, law in enumerate(UNIMODAL) if law.draw is not None
    )
    return curves, off


def any_noise(config: Any) -> list[Curve]:
    """P[wrong sign] under Cantelli's inequality, for any law."""
    s = signals(config)
    return [
        Curve(law.name, s, [law.wrong(s)], bounds.wrong_sign_any(s))
        for law in (*UNIMODAL, TWO_POINTS)
    ]


def votes(config: Any, worst: bool) -> list[Curve]:
    """S P[Z ≤ M/2], at its largest over S, by M; exact sums.

    Args:
      config: of the study.
      worst: of two-point laws, where Theorem 2 (a) claims at most 1; else of unimodal
        symmetric ones, where (b) claims 1/√M.
    """
    s = np.geomspace(1 if worst else 0.005, 20, 20 * config.signals)
    m = np.arange(1, config.most_workers + 1)
    bound = np.ones(len(m)) if worst else m**-0.5
    curves = []
    for law in (TWO_POINTS,) if worst else (UNIMODAL[0], UNIMODAL[-1]):
        wrong = law.wrong(s)
        largest = [(s * bounds.wrong_vote(k, wrong)).max() for k in m]
        curves.append(Curve(law.name, m, [largest], bound))
    return curves


def repetition(config: Any) -> list[Curve]:
    """P[vote wrong] ÷ P[one worker wrong], at its largest over q < ½, by M."""
    q = np.linspace(0.01, 0.49, 49)
    curves = []
    for label, first in (("odd M", 1), ("even M, a tie is not right", 2)):
        m = np.arange(first, max(config.most_workers, first) + 1, 2)
        largest = [(bounds.wrong_vote(k, q) / q).max() for k in m]
        curves.append(Curve(label, m, [largest], np.ones(len(m))))
    return curves


class Skewed(NamedTuple):
    """Remark 3: chances of the right sign by the number of workers.

    Attributes:
      workers: M.
      exact: of the vote of M.
      drawn: of the vote, by the library.
      error: its standard error.
      mean: exact, of the sign of the mean of M samples.
    """

    workers: np.ndarray
    exact: np.ndarray
    drawn: np.ndarray
    error: np.ndarray
    mean: np.ndarray


def remark_3(config: Any) -> Skewed:
    """Votes on 50 with probability 0.1 and -1 otherwise."""
    m = np.asarray(config.remark_workers)
    # Right if more than half of the votes are, and if the sum is positive.
    exact = scipy.stats.binom.sf(m // 2, m, SKEWED_CHANCE)
    high, low = SKEWED_VALUES
    least = np.floor(-low * m / (high - low))  # so many rare values do not suffice
    mean = scipy.stats.binom.sf(least, m, SKEWED_CHANCE)
    tx = ef_optax.majority_vote("workers")
    vote = jax.jit(jax.vmap(
        lambda g: tx.update(g, tx.init(g))[0], axis_name="workers"
    ))
    share = []
    for k in config.remark_workers:
        noise = SKEWED.draw(jax.random.key(k), (k, config.samples))
        voted = vote(SKEWED_MEAN + SKEWED_DEVIATION * noise)[0]
        share.append(float(jnp.mean(voted > 0)))
    error = np.sqrt(exact * (1 - exact) / config.samples)
    return Skewed(m, exact, np.asarray(share), error, mean)

"""Verdicts of the study of Safaryan and Richtárik that are not bounds alone."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments._results import Results
from experiments.rates.curves import Comparison
from experiments.rates.problems import Problem
from experiments.rates.stochastic.chances import Batches, Votes
from experiments.rates.stochastic.scaled import Against, Moments


def start_chance(problem: Problem, noise: float) -> float:
    """The largest ρ_i at the start, with Gaussian noise."""
    g = float(jnp.abs(problem.gradient(jnp.float32(problem.start))).max())
    return 0.5 * math.erfc(-g / noise / math.sqrt(2))


def of_votes(
    config: Any, results: Results, compared: Comparison, votes: Votes
) -> None:
    """Theorem 3, Lemma 8 and the variance reduction."""
    by_workers = {
        int(c.label.split("=")[1].split(",")[0]): c.mean[-1]
        for c in compared.curves if "decreasing" in c.label
    }
    odd = [m for m in by_workers if m % 2 and m + 1 in by_workers]
    extra = "; ".join(
        f"{m} and {m + 1} workers reach {by_workers[m]:.4g} and {by_workers[m + 1]:.4g}"
        for m in odd
    )
    if odd and all(by_workers[m + 1] < by_workers[m] for m in odd):
        extra += " (in the even vote ties take no step, which the bound does not use)"
    compared.judge(results, extra)
    results.metric(claim="lemma_8", **votes._asdict())
    faults = []
    if max(votes.even, votes.formula) > config.exact:
        faults.append("exact sums disagree")
    if votes.library > config.single:
        faults.append("the library's norm disagrees")
    results.verdict(
        "lemma_8", not faults,
        f"2l - 1 and 2l differ by {votes.even:.1g}, sums and formula by "
        f"{votes.formula:.1g}, the library's ρ_M-norm by {votes.library:.1g}",
        "; ".join(faults),
    )
    results.verdict(
        "variance_reduction", votes.hoeffding <= 1,
        f"1 - exp(-(2ρ-1)²l) is at most {votes.hoeffding:.4f} of the weight (both tend "
        "to 1)",
        "" if votes.hoeffding <= 1 else "the exponential is larger somewhere",
    )


def of_lemma_1(results: Results, compared: dict[str, Comparison], off: float) -> None:
    """Lemma 1 with the library's estimates, and its improvement."""
    plain, improved = compared["lemma_1"], compared["lemma_1_improved"]
    plain.record(results)
    faults = [plain.why] if plain.why else []
    if off > 5:
        faults.append(f"estimates are {off:.1f} standard errors off")
    results.verdict(
        "lemma_1", not faults,
        f"of the bound of 1 - ρ {plain.number}; estimates at most {off:.1f} standard "
        "errors off", "; ".join(faults),
    )
    improved.record(results)
    faults = [improved.why] if improved.why else []
    if (improved.curves[0].bound > plain.curves[0].bound).any():
        faults.append("weaker than Lemma 1 somewhere")
    results.verdict(
        "lemma_1_improved", not faults, f"of the bound of 1 - ρ {improved.number}",
        "; ".join(faults),
    )


def of_lemma_7(results: Results, found: Batches) -> None:
    """Whether every mini-batch above the lemma's is right more often than not."""
    for p, mean, enough, needed, least in zip(*found, strict=True):
        results.metric(
            claim="lemma_7", chance=p, mean=mean, enough=enough, needed=needed,
            least=least,
        )
    worst = int(found.least.argmin())
    tightest = int((found.needed / found.enough).argmax())
    bad = found.least <= 0.5
    results.verdict(
        "lemma_7", not bad.any(),
        f"P[right sign] at least {found.least[worst]:.3f} above the lemma's τ (P(1) = "
        f"{found.chance[worst]:g}, mean {found.mean[worst]:.3g}); the least τ that is "
        f"needed is between {(found.needed / found.enough).min():.2g} and "
        f"{found.needed[tightest] / found.enough[tightest]:.2g} of it",
        f"{bad.sum()} laws are right no more often than not" if bad.any() else "",
    )


def of_moments(config: Any, results: Results, found: Moments) -> None:
    """The stochastic sign's mean, norm and variance."""
    off = np.abs(found.variance - 1) / np.maximum(found.error, 1e-6)
    results.metric(
        claim="stochastic_sign", mean=found.mean, norm=found.norm, zero=found.zero,
        variance=found.variance, error=found.error,
    )
    faults = []
    if found.mean > 5:
        faults.append(f"the mean is {found.mean:.1f} standard errors off")
    if off.max() > 5:
        faults.append(f"the variance is {off.max():.1f} standard errors off")
    if found.norm > config.single:
        faults.append(f"the norm is {found.norm:.1g} off")
    if not found.zero:
        faults.append("C(0) is not 0")
    results.verdict(
        "stochastic_sign", not faults,
        f"mean at most {found.mean:.1f} standard errors off; variance ÷ (d-1)‖x‖² from "
        f"{found.variance.min():.4f} to {found.variance.max():.4f}, at most "
        f"{off.max():.1f} standard errors off; norm off by at most {found.norm:.1g}",
        "; ".join(faults),
    )


def of_appendix_e(
    config: Any, results: Results, compared: Comparison, found: Against
) -> None:
    """Where the bounds cross, and which method is better."""
    compared.record(results)
    faults = [compared.why] if compared.why else []
    for name, wanted, real in zip(
        ("printed", "provable"), found.thresholds, found.crossings, strict=True
    ):
        if abs(real / wanted - 1) > config.exact_crossing:
            faults.append(f"the {name} bounds cross at {real:.6g}, not {wanted:.6g}")
    results.verdict(
        "appendix_e_bounds", not faults,
        f"the bounds cross at {found.crossings[0]:.6g} = 1/(8dL) as printed, at "
        f"{found.crossings[1]:.6g} with the provable Theorem II; {compared.number}",
        "; ".join(faults),
    )
    own, other = found.stochastic, found.feedback
    judged = own.at >= found.thresholds[0] * (1 - 1e-9)
    ratios = own.mean / other.mean
    worse = ratios[judged] > 1
    share = found.as_measured / own.bound
    results.verdict(
        "appendix_e_runs", not worse.any(),
        "mean ‖∇f‖² of the stochastic sign ÷ that of the scaled sign with feedback: "
        + ", ".join(
            f"{ratio:.3g} at γ = {gamma / found.thresholds[0]:g}/(8dL)"
            for gamma, ratio in zip(own.at, ratios, strict=True)
        )
        + f"; φ(p_t) is at least {found.density[0]:.2f} and {found.density[1]:.2f} in "
        "the mean",
        "" if not worse.any() else
        "The comparison is one of worst cases: Theorem II enters with δ = 1/d = "
        f"{1 / config.dimension:g}, but the error feedback saw densities of at least "
        f"{found.density[0]:.2f}, and with these Theorem II's bound is "
        f"{share[judged].min():.2g} to {share[judged].max():.2g} times the stochastic "
        f"sign's for γ ≥ 1/(8dL). The stochastic sign always pays the factor d of its "
        "second moment, in every draw; the scaled sign pays d only on vectors with one "
        "coordinate. The paper's sentence is about the bounds and stands there",
    )

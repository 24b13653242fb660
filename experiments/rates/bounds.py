"""The right-hand sides of the theorems, in float64.

`gap` is f(x₀) - f*, `smoothness` is L, or the sum of the L_i where that is said.
Where a paper prints another constant than its proof gives, the function takes
``printed``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.special
import scipy.stats

# Karimireddy et al. `moment` is σ², a bound of E‖g‖²; `points` is T + 1.


def error_norm(delta: Any, rate: Any, moment: Any, tight: bool = False) -> Any:
    """Lemma 3: of E‖e‖²; `tight` is what its proof has before it rounds."""
    factor = 2 * (2 - delta) if tight else 4
    return factor * (1 - delta) / delta**2 * rate**2 * moment


def error_norm_surely(delta: Any, rate: Any, greatest: Any) -> Any:
    """Of ‖e‖ where ‖g‖ ≤ `greatest` always: the geometric series of √(1-δ)."""
    root = np.sqrt(1 - np.asarray(delta, np.float64))
    return rate * greatest * root / (1 - root)


def feedback(
    points: Any, rate: Any, delta: Any, gap: float, smoothness: float, moment: float,
    printed: bool = False,
) -> Any:
    """Theorem II: of the mean of E‖∇f(x_t)‖².

    Printed is γLσ²/2; the proof's ρ = 1 doubles it with the first term.
    """
    noise = rate * smoothness * moment / (2 if printed else 1)
    late = smoothness**2 * error_norm(delta, rate, moment)
    return 2 * gap / (rate * points) + noise + late


def descent(
    points: Any, rate: Any, gap: float, smoothness: float, moment: float
) -> Any:
    """SGD, of the mean of E‖∇f(x_t)‖²: Remark 4, and Theorem 6 of the third paper."""
    return gap / (rate * points) + rate * smoothness * moment / 2


def unbiased_as_printed(
    points: Any, kappa: float, gap: float, smoothness: float, moment: float
) -> Any:
    """Remark 5 with feedback, γ = 1/√(T+1), as printed: 2L²σ²k² in the last term."""
    root = np.sqrt(points)
    return (
        (4 * gap + smoothness * moment) / (2 * root)
        + 2 * smoothness**2 * moment * kappa**2 / points
    )


def feedback_convex(
    points: Any, rate: Any, delta: Any, distance: float, moment: float,
    printed: bool = False,
) -> Any:
    """Theorem III: of E f(x̄_T) - f*. The printed one is twice as large or nearly."""
    late = 2 * np.sqrt(1 - np.asarray(delta, np.float64)) / delta
    if printed:
        return distance**2 / (rate * points) + rate * moment * (1 + late)
    return distance**2 / (2 * rate * points) + rate * moment * (0.5 + late)


def best_rate_convex(points: Any, delta: Any, distance: float, moment: float) -> Any:
    """The γ that makes Theorem III least."""
    late = np.sqrt(1 - np.asarray(delta, np.float64)) / delta
    return distance / np.sqrt(points * moment * (1 + 4 * late))


def feedback_convex_best(
    points: Any, delta: Any, distance: float, moment: float, printed: bool = False
) -> Any:
    """Remark 6: Theorem III at its best γ; printed is 2 where the sum gives 4."""
    late = np.sqrt(1 - np.asarray(delta, np.float64)) / delta
    return distance * np.sqrt(moment * (1 + (2 if printed else 4) * late) / points)


# Bernstein et al. `spread` is ‖σ‖₁, and `smoothness` ‖L‖₁. Of E[mean ‖g‖₁], whose
# square the paper states; `steps` is K = √N.


def sign(
    steps: Any, gap: float, smoothness: float, spread: float, workers: Any = 1
) -> Any:
    """Theorem 1, and with `workers` Theorem 2 (b)."""
    bound = math.sqrt(smoothness) * (gap + 0.5) + 2 * spread / np.sqrt(workers)
    return bound / np.sqrt(steps)


def sgd(steps: Any, gap: float, smoothness: float, variance: float, large: bool) -> Any:
    """Theorem C.1: of mean E‖g‖²; K steps are K² calls if the batch is `large`."""
    return (2 * smoothness * gap + variance) / (steps if large else np.sqrt(steps))


def momentum_error(
    step: Any, beta: float, rate: float, smoothness: float, spread: float
) -> Any:
    """Lemma F.2: ξ(k), of ‖E|m̃_k - g_k|‖₁ for k ≥ C."""
    bias = 8 * smoothness * rate * beta / (1 - beta)
    return 2 / np.sqrt(step + 1) * (bias + math.sqrt(3 * (1 - beta)) * spread)


def signum(
    steps: Any, warmup: int, gap: Any, beta: float, rate: float, smoothness: float,
    spread: float,
) -> Any:
    """Lemma E.1 with ξ of Lemma F.2 and δ_k = δ/√(k+1): of the mean over k ≥ C.

    Args:
      steps: the K.
      warmup: C.
      gap: f(x_C) - f*, in the mean.
      beta: of the momentum.
      rate: δ.
      smoothness: ‖L‖₁.
      spread: ‖σ‖₁.
    """
    k = np.arange(warmup, int(np.max(steps)), dtype=np.float64)
    rates = rate / np.sqrt(k + 1)
    wrong = momentum_error(k, beta, rate, smoothness, spread)
    sums = np.cumsum(2 * rates * wrong + rates**2 * smoothness / 2)
    steps = np.asarray(steps)
    return (gap + sums[steps - warmup - 1]) / (
        (steps - warmup) * rates[steps - warmup - 1]
    )


def wrong_sign(signal: Any) -> Any:
    """Lemma D.1, of P[wrong sign] for unimodal symmetric noise; S = |g|/σ."""
    signal = np.asarray(signal, np.float64)
    with np.errstate(divide="ignore"):
        far = 2 / (9 * signal**2)
    return np.where(signal > 2 / math.sqrt(3), far, 0.5 - signal / (2 * math.sqrt(3)))


def wrong_sign_any(signal: Any) -> Any:
    """Cantelli's inequality, for any noise."""
    return 1 / (1 + np.asarray(signal, np.float64) ** 2)


def wrong_vote(workers: Any, wrong: Any) -> Any:
    """P[at most half of the workers are right], exactly; each is wrong with `wrong`."""
    workers = np.asarray(workers)
    return scipy.stats.binom.cdf(workers // 2, workers, 1 - np.asarray(wrong))


# Safaryan and Richtárik. `smoothness` is Σ L_i = d L̄.


def decreasing(steps: Any, rate: float, gap: float, smoothness: float) -> Any:
    """Theorem 1 with γ_k = γ₀/√(k+1): of min E‖g‖_ρ. Also Theorems 3 and 6."""
    steps = np.asarray(steps, np.float64)
    settled = gap / rate + rate * smoothness
    return (settled + rate * smoothness / 2 * np.log(steps)) / np.sqrt(steps)


def decreasing_accepted(steps: Any, rate: float, gap: float, smoothness: float) -> Any:
    """Theorem 2, Option 2: of the mean, without the logarithm."""
    return (gap / rate + rate * smoothness) / np.sqrt(steps)


def constant(steps: Any, rate: Any, gap: float, smoothness: float) -> Any:
    """Theorems 1 to 3 with a constant step, of mean E‖g‖_ρ."""
    return gap / (rate * steps) + rate * smoothness / 2


def right_sign(signal: Any, improved: bool = False) -> Any:
    """Lemma 1, of ρ from below, and its improvement; `signal` is |g|/σ."""
    z = np.asarray(signal, np.float64) / math.sqrt(3)
    return 1 - 0.5 / (1 + z + (z**2 if improved else 0))


def vote_weight(workers: Any, right: Any) -> Any:
    """Lemma 8: E[vote · sign g] = 2I(ρ; l, l) - 1."""
    half = (np.asarray(workers) + 1) // 2
    return 2 * scipy.special.betainc(half, half, right) - 1


def enough_samples(mean: Any, variance: Any, third: Any) -> Any:
    """Lemma 7: a mini-batch larger than this has the right sign more often than not."""
    return 2 * np.minimum(variance / mean**2, third / (np.abs(mean) * variance))


def stochastic_sign(
    steps: Any, rate: Any, gap: float, smoothness: float, moment: float, dimension: int
) -> Any:
    """Appendix E: SGD with the scaled stochastic sign; `smoothness` is L_max."""
    return descent(steps, rate, gap, smoothness, dimension * moment)


def threshold(dimension: int, smoothness: float, printed: bool = False) -> float:
    """The γ from which appendix E's bound is below Theorem II with δ = 1/d.

    Without the factor 2 of Theorem II's first term, as the paper leaves it out.
    """
    if printed:
        return 1 / (8 * dimension * smoothness)
    return (dimension - 2) / (8 * dimension * (dimension - 1) * smoothness)

"""Whether a distribution looks unimodal and symmetric, from a sample."""

from __future__ import annotations

import functools

import numpy as np
from scipy.optimize import isotonic_regression


def skewness(sample: np.ndarray) -> float:
    """Returns the third standardised moment; 0 for a sample that does not vary.

    NaN if any of it is not finite, as for what follows.
    """
    deviations = np.asarray(sample, np.float64)
    if not np.isfinite(deviations).all():
        return float("nan")
    deviations = deviations - deviations.mean()
    variance = np.mean(deviations**2)
    return float(np.mean(deviations**3) / variance**1.5) if variance > 0 else 0.0


def unimodality_gap(sample: np.ndarray) -> float:
    """Returns how far a sample is from unimodal, like Hartigan's dip.

    A unimodal distribution function is convex before its mode and concave after it.
    For a mode m, the distance is the largest one between the empirical distribution
    function and its greatest convex minorant before m, or its least concave majorant
    after m. The gap is the least distance over all m among the sample.
    """
    x, counts = np.unique(np.asarray(sample, np.float64), return_counts=True)
    steps, widths = counts[1:] / counts.sum(), np.diff(x)
    if len(widths) < 2:
        return 0.0
    # To the left of the mode the distance grows with it, to the right it shrinks: the
    # least of their maxima is where they meet.
    low, high = 0, len(widths)
    while low < high:
        mode = (low + high) // 2
        if _left(steps, widths, mode) < _left_of_mirror(steps, widths, mode):
            low = mode + 1
        else:
            high = mode
    return min(
        max(_left(steps, widths, mode), _left_of_mirror(steps, widths, mode))
        for mode in (max(low - 1, 0), low)
    )


def unimodality_p(sample: np.ndarray, draws: int = 500) -> float:
    """Returns how probable a gap at least as large is for a uniform sample.

    The uniform distribution is the hardest of the unimodal ones, as for Hartigan's
    test: below a small level, the sample is from no unimodal distribution.
    """
    if not np.isfinite(sample).all():
        return float("nan")
    gaps = _uniform_gaps(len(sample), draws)
    return float((1 + np.sum(gaps >= unimodality_gap(sample))) / (1 + draws))


@functools.cache
def _uniform_gaps(size: int, draws: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([unimodality_gap(rng.random(size)) for _ in range(draws)])


def _left(steps: np.ndarray, widths: np.ndarray, mode: int) -> float:
    """Returns the distance from the greatest convex minorant of the first steps."""
    if mode < 2:
        return 0.0
    steps, widths = steps[:mode], widths[:mode]
    # Its slopes are the isotonic regression of the steps' slopes.
    slopes = isotonic_regression(steps / widths, weights=widths).x
    return float(np.max(np.cumsum(steps) - np.cumsum(slopes * widths)))


def _left_of_mirror(steps: np.ndarray, widths: np.ndarray, mode: int) -> float:
    """Returns the distance from the least concave majorant of the last steps."""
    return _left(steps[::-1], widths[::-1], len(steps) - mode)

"""How stochastic gradients of single weights are distributed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Sarle's coefficient of a uniform distribution; the normal one has 1/3.
BIMODAL = 5 / 9
# Standard deviations between the means of two equal normal densities with two modes.
APART = 2


class Shape(NamedTuple):
    """Numbers on samples, one a column.

    Attributes:
      skewness: the third standardised moment; 0 if symmetric.
      bimodality: Sarle's (skewness^2 + 1) / kurtosis, from 0 to 1: 1/3 of a normal
        distribution, 5/9 of a uniform one, 1 of two points.
      separation: how far the means of the two parts lie apart, in standard deviations
        within the parts; the sum of two equal normal densities has two modes if and
        only if it is above 2. NaN if there is one part.
      success: how often the sign is that of the mean; the success probability.
      moving: which columns vary at all.
    """

    skewness: np.ndarray
    bimodality: np.ndarray
    separation: np.ndarray
    success: np.ndarray
    moving: np.ndarray


def shape_of(samples: np.ndarray, part: np.ndarray) -> Shape:
    """Returns the numbers on samples [n, columns], each row of part 0 or 1."""
    samples = samples.astype(np.float64)
    mean, deviation = samples.mean(axis=0), samples.std(axis=0)
    moving = deviation > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (samples - mean) / deviation
        skewness, kurtosis = (z**3).mean(axis=0), (z**4).mean(axis=0)
        separation = np.full(len(mean), np.nan)
        if 0 < part.sum() < len(part):
            first, second = samples[part == 0], samples[part == 1]
            within = np.sqrt((first.var(axis=0) + second.var(axis=0)) / 2)
            separation = abs(first.mean(axis=0) - second.mean(axis=0)) / within
        bimodality = (skewness**2 + 1) / kurtosis
    success = (np.sign(samples) == np.sign(mean)).mean(axis=0)
    return Shape(skewness, bimodality, separation, success, moving)


def share_bimodal(shape: Shape) -> float:
    """Returns in how many of the columns that vary the coefficient is above 5/9."""
    return float((shape.bimodality[shape.moving] > BIMODAL).mean())


def share_apart(shape: Shape) -> float:
    """Returns in how many of the columns that vary the distance is above 2."""
    return float((shape.separation[shape.moving] > APART).mean())

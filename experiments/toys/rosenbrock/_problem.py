r"""The Rosenbrock function, its stochastic gradient and exact success probabilities.

.. math::
  f(x) = \sum_{i=1}^{d-1} f_i(x), \qquad
  f_i(x) = 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2

As printed, the stochastic gradient is :math:`\nabla f_i(x) + \xi` for one summand,
drawn uniformly: its mean is :math:`\nabla f(x) / (d - 1)`, which is why the paper calls
it biased. Signs do not see that factor; a factor of d - 1 before :math:`\nabla f_i`
would be the same as a noise :math:`\nu / (d - 1)`. A mini-batch is the mean of
:math:`\tau` independent draws of both the summand and the noise.

Only the summands i - 1 and i have the coordinate i. If a mini-batch draws one n times
and the other m times, coordinate i of its sum is
:math:`n a + m c + \sqrt\tau \nu \cdot N(0, 1)` with a and c the two derivatives, so
that

.. math::
  2 \rho_i - 1 = \sum_{n, m} P(n, m) \operatorname{erf}\Big(
    \operatorname{sign}(a + c) \frac{n a + m c}{\sqrt{2 \tau}\, \nu}\Big)

exactly. Because P(n, m) = P(m, n), and the arguments of (n, m) and (m, n) add up to
(n + m) |a + c| > 0, every pair contributes a positive number: with this gradient
:math:`\rho_i > 1/2` wherever :math:`g_i \neq 0`, whatever x, the batch and the noise
are. And because nobody knows a coordinate that the batch missed,
:math:`\rho_i \leq 1 - \frac12 (1 - \frac{s}{d-1})^\tau`, where s is the number of
summands with that coordinate: 1 at both ends, 2 between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STARTS = ("standard", "zeros", "twos")


def start(name: str, dimension: int) -> np.ndarray:
    """Returns an initial point: the usual (-1.2, 1, -1.2, ...), all 0 or all 2."""
    if name == "standard":
        return np.resize([-1.2, 1.0], dimension).astype(np.float32)
    return np.full(dimension, {"zeros": 0.0, "twos": 2.0}[name], np.float32)


def value(x: jax.Array) -> jax.Array:
    """Returns f(x), whose least value is 0, at (1, ..., 1)."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def derivatives(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the derivatives of f_{i-1} and of f_i with respect to x_i, [d] each."""
    rest = x[1:] - x[:-1] ** 2
    of_second = 200 * rest
    of_first = -400 * x[:-1] * rest - 2 * (1 - x[:-1])
    return jnp.pad(of_second, (1, 0)), jnp.pad(of_first, (0, 1))


def gradient(x: jax.Array) -> jax.Array:
    """Returns the gradient of f."""
    before, own = derivatives(x)
    return before + own


def draw(
    seed: Sequence[int], shape: tuple[int, ...], most: int, dimension: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is random in stochastic gradients: summands and normal numbers.

    Drawn by NumPy: to compile a generator takes longer than to draw so few.

    Args:
      seed: numbers that no other draw has.
      shape: of how many.
      most: the largest mini-batch that may come.
      dimension: d.
    """
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, dimension - 1, (*shape, most), np.int32),
        rng.standard_normal((*shape, dimension), np.float32),
    )


def stochastic_gradient(x: jax.Array, drawn: Any, batch: Any, noise: Any) -> jax.Array:
    """Returns the mean of `batch` gradients of random summands with noise.

    Args:
      x: the point.
      drawn: of `draw`, for one.
      batch: how many of the summands that were drawn count, maybe traced.
      noise: the standard deviation of each coordinate of each of them.
    """
    which, normal = drawn
    hits = which[:, None] == jnp.arange(x.size - 1)
    counts = (hits & (jnp.arange(which.size) < batch)[:, None]).sum(axis=0)
    before, own = derivatives(x)
    total = jnp.pad(counts, (1, 0)) * before + jnp.pad(counts, (0, 1)) * own
    return total / batch + noise / jnp.sqrt(batch) * normal


def hit_chances(batch: int, most: int, dimension: int) -> np.ndarray:
    """Returns (n, m, P(n, m)), [3, pairs]: how often two summands are drawn.

    Args:
      batch: the size of the mini-batch.
      most: to which pairs are padded, with probability 0.
      dimension: d.
    """
    chance = 1 / (dimension - 1)
    out = []
    for n in range(most + 1):
        for m in range(most + 1 - n):
            ways = math.comb(batch, n) * math.comb(max(batch - n, 0), m)
            rest = (1 - 2 * chance) ** max(batch - n - m, 0)
            out.append((n, m, ways * chance ** (n + m) * rest))
    return np.array(out).T


def success_excess(
    x: jax.Array, batch: Any, noise: Any, chances: jax.Array
) -> jax.Array:
    """Returns 2 rho_i - 1 of all coordinates, exactly but for rounding.

    Where the gradient is 0 the theory asks nothing, and the answer is 1.

    Args:
      x: the point.
      batch: how many draws make a stochastic gradient.
      noise: as in `stochastic_gradient`.
      chances: of `hit_chances`.
    """
    before, own = derivatives(x)
    side = jnp.sign(before + own)
    n, m, chance = chances
    sums = side[:, None] * (n * before[:, None] + m * own[:, None])  # [d, pairs]
    odds = jax.scipy.special.erf(sums / (jnp.sqrt(2.0 * batch) * noise))
    return jnp.where(side == 0, 1.0, odds @ chance)


def greatest_success(batch: int, dimension: int) -> tuple[float, float]:
    """Returns the upper bounds of rho at both ends and between them."""
    ends, between = (
        1 - 0.5 * (1 - summands / (dimension - 1)) ** batch for summands in (1, 2)
    )
    return ends, between


def smoothness(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns L_i that hold wherever low <= x <= high.

    The Hessian is tridiagonal, and a diagonal matrix of the sums of absolute values
    of its rows is above it.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    d = len(low)
    greatest = np.maximum(np.abs(low), np.abs(high))
    least = np.where((low <= 0) & (high >= 0), 0, np.minimum(abs(low), abs(high)))
    bounds = np.zeros(d)
    for i in range(d):
        lower = upper = 0.0
        if i < d - 1:  # of f_i
            lower += 2 + 1200 * least[i] ** 2 - 400 * high[i + 1]
            upper += 2 + 1200 * greatest[i] ** 2 - 400 * low[i + 1]
            bounds[i] += 400 * greatest[i]
        if i > 0:  # of f_{i-1}
            lower, upper = lower + 200, upper + 200
            bounds[i] += 400 * greatest[i - 1]
        bounds[i] += max(abs(lower), abs(upper))
    return bounds

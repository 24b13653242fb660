"""Functions whose constants are known, and noise whose success probability is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    """A function to minimise, and what the theorems want to know of it.

    Attributes:
      name: in figures and tables.
      value: from a point to a scalar.
      gradient: from a point to the gradient, or to a subgradient.
      start: where every run starts.
      minimum: f*, attained at `solution`.
      solution: a minimiser.
      smoothness: the L_i, None where there are none.
      steepest: the greatest ‖∇f‖₂ anywhere, None if there is none.
    """

    name: str
    value: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array], jax.Array]
    start: np.ndarray
    minimum: float
    solution: np.ndarray
    smoothness: np.ndarray | None
    steepest: float | None

    @property
    def gap(self) -> float:
        """f(x₀) - f*."""
        return float(self.value(jnp.float32(self.start))) - self.minimum

    @property
    def distance(self) -> float:
        """‖x₀ - x*‖₂."""
        return float(np.linalg.norm(self.start - self.solution))

    @property
    def smooth(self) -> np.ndarray:
        """The L_i of a function that has them."""
        assert self.smoothness is not None
        return self.smoothness

    def second_moment(self, noise: float) -> float:
        """A bound of E‖g‖² at all points, with `noise` of that deviation in each."""
        assert self.steepest is not None
        return self.steepest**2 + len(self.start) * noise**2


def quadratic(curvature: Any, start: Any) -> Problem:
    """½ Σ h_i x_i²: L_i = h_i, and the smoothness inequality is an equality."""
    h = np.asarray(curvature, np.float64)
    return Problem(
        "quadratic",
        lambda x: 0.5 * jnp.sum(jnp.float32(h) * x**2),
        lambda x: jnp.float32(h) * x,
        np.broadcast_to(np.float64(start), h.shape), 0.0, np.zeros(h.shape), h, None,
    )


def ripples(heights: Any, start: Any) -> Problem:
    """Σ a_i (√(1 + x_i²) - 1 + (1 - cos 3x_i)/10): not convex, with one minimum.

    Far from the minimum the slope is that of a_i |x_i| with ripples, so that noise
    cannot carry a run away: |f'_i| ≤ 1.3 a_i and |f''_i| ≤ 1.9 a_i, which f''_i(0) has.
    """
    a = np.asarray(heights, np.float64)

    def value(x: jax.Array) -> jax.Array:
        # √(1 + x²) - 1 without cancellation.
        rise = x**2 / (1 + jnp.sqrt(1 + x**2))
        return jnp.sum(jnp.float32(a) * (rise + 0.2 * jnp.sin(1.5 * x) ** 2))

    return Problem(
        "ripples",
        value,
        lambda x: jnp.float32(a) * (x / jnp.sqrt(1 + x**2) + 0.3 * jnp.sin(3 * x)),
        np.broadcast_to(np.float64(start), a.shape), 0.0, np.zeros(a.shape), 1.9 * a,
        float(1.3 * np.linalg.norm(a)),
    )


def creases(pairs: int, epsilon: float, start: float) -> Problem:
    """Counterexample 2 in each pair: Σ ε|x + y| + |x - y|, convex and not smooth.

    The subgradient takes sign(0) = 1, so that from x = y signs alone never reduce
    x + y; its norm is √(2 + 2ε²) in each pair.
    """
    def sign(u: jax.Array) -> jax.Array:
        return jnp.where(u >= 0, 1.0, -1.0)

    def value(x: jax.Array) -> jax.Array:
        u, v = x.reshape(-1, 2).T
        return jnp.sum(epsilon * jnp.abs(u + v) + jnp.abs(u - v))

    def gradient(x: jax.Array) -> jax.Array:
        u, v = x.reshape(-1, 2).T
        along, across = epsilon * sign(u + v), sign(u - v)
        return jnp.stack([along + across, along - across], axis=1).reshape(x.shape)

    return Problem(
        "creases", value, gradient, np.full(2 * pairs, start), 0.0,
        np.zeros(2 * pairs), None, math.sqrt(2 * pairs * (1 + epsilon**2)),
    )


def valley(
    dimension: int, slope: float, curvature: float, distance: float
) -> Problem:
    """A long slope with a round bottom (Huber's function) in each coordinate.

    Far from the bottom |f'_i| is `slope`, however long it takes: where the noise is
    larger, the way down takes as long as the signs are unsure.
    """
    width = slope / curvature

    def value(x: jax.Array) -> jax.Array:
        inside = jnp.minimum(jnp.abs(x), width)
        return jnp.sum(curvature * inside * (jnp.abs(x) - inside / 2))

    return Problem(
        "valley", value, lambda x: curvature * jnp.clip(x, -width, width),
        np.full(dimension, distance), 0.0, np.zeros(dimension),
        np.full(dimension, curvature), slope * math.sqrt(dimension),
    )


class Noise(NamedTuple):
    """What is added to a gradient.

    Attributes:
      name: in figures and tables.
      draw: (key, shape) -> noise of scale 1.
      success: (|g| / scale) -> the probability of the right sign, with JAX; None where
        it depends on the sign of g.
      unimodal: whether it is unimodal and symmetric with a variance, which is 1.
    """

    name: str
    draw: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    success: Callable[[jax.Array], jax.Array] | None
    unimodal: bool


GAUSSIAN = Noise("Gaussian", jax.random.normal, jax.scipy.special.ndtr, True)
# It has neither a mean nor a variance.
CAUCHY = Noise(
    "Cauchy", jax.random.cauchy, lambda s: 0.5 + jnp.arctan(s) / jnp.pi, False
)
# Remark 3 of Bernstein et al.: 50 with probability 0.1, else -1; here without its mean
# and with variance 1.
SKEWED_VALUES, SKEWED_CHANCE = (50.0, -1.0), 0.1
SKEWED_MEAN = SKEWED_CHANCE * SKEWED_VALUES[0] + (1 - SKEWED_CHANCE) * SKEWED_VALUES[1]
SKEWED_DEVIATION = (SKEWED_VALUES[0] - SKEWED_VALUES[1]) * math.sqrt(
    SKEWED_CHANCE * (1 - SKEWED_CHANCE)
)


def _skewed(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    rare = jax.random.bernoulli(key, SKEWED_CHANCE, shape)
    drawn = jnp.where(rare, *SKEWED_VALUES)
    return (drawn - SKEWED_MEAN) / SKEWED_DEVIATION


SKEWED = Noise("skewed", _skewed, None, False)

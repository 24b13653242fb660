"""Laws of noise with known chances of a wrong sign, drawn and exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import ef_optax


class Law(NamedTuple):
    """A law of mean 0 and variance 1.

    Attributes:
      name: in figures and tables.
      wrong: S -> P[noise ≤ -S], the chance of a wrong sign where g/σ = S > 0.
      draw: (key, shape) -> samples; None where only the chances are used.
    """

    name: str
    wrong: Callable[[Any], Any]
    draw: Callable[[jax.Array, tuple[int, ...]], jax.Array] | None


def _of(distribution: Any) -> Callable[[Any], Any]:
    scale = distribution.std()
    return lambda signal: distribution.cdf(-np.asarray(signal) * scale)


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1, maxval=1) * math.sqrt(3)


def worst_unimodal(signal: Any) -> Any:
    """The largest chance of a wrong sign: Gauss's inequality is sharp.

    Noise is 0 with probability 1 - w, else uniform on ±b, of variance wb²/3 = 1. The
    worst b is 3S/2, or √3 with w = 1 where that is larger.
    """
    signal = np.asarray(signal, np.float64)
    b = np.maximum(1.5 * signal, math.sqrt(3))
    return 3 / b**2 * (1 - signal / b) / 2


# Unimodal and symmetric.
UNIMODAL = (
    Law("Gaussian", _of(scipy.stats.norm()), jax.random.normal),
    Law("Laplace", _of(scipy.stats.laplace()),
        lambda key, shape: jax.random.laplace(key, shape) / math.sqrt(2)),
    Law("uniform", _of(scipy.stats.uniform(-1, 2)), _uniform),
    Law("Student, 3 degrees", _of(scipy.stats.t(3)), None),
    Law("worst for each S", worst_unimodal, None),
)
# Any other: two points, with the rare one where it hurts most, or where it hides.
TWO_POINTS = Law(
    "two points, worst for each S", lambda s: 1 / (1 + np.asarray(s) ** 2), None
)


class Drawn(NamedTuple):
    """Chances of a right sign, estimated by the library, and exact, for each S."""

    estimate: np.ndarray
    exact: np.ndarray
    error: np.ndarray


def drawn(law: Law, signal: np.ndarray, samples: int, seed: int) -> Drawn:
    """Estimates success probabilities from samples; `error` is the standard error."""
    assert law.draw is not None
    noise = law.draw(jax.random.key(seed), (samples, len(signal)))
    g = jnp.float32(signal)
    success = ef_optax.measures.success_probabilities(g + noise, g)
    estimate = np.asarray(success, np.float64)
    exact = 1 - np.asarray(law.wrong(signal), np.float64)
    return Drawn(estimate, exact, np.sqrt(exact * (1 - exact) / samples))


def most_errors_off(found: Drawn) -> float:
    """How many standard errors the worst estimate is off; inf where none is due."""
    off = np.abs(found.estimate - found.exact)
    sure = found.error == 0
    return float(np.where(
        sure, np.where(off > 0, np.inf, 0.0), off / np.where(sure, 1, found.error)
    ).max())

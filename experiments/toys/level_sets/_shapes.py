"""Level sets of the l^{1,2} norm, measured, and the inequalities that it obeys."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ef_optax
from experiments.toys.level_sets._config import Config


class Shape(NamedTuple):
    """A level set, measured.

    Attributes:
      radii: by direction.
      circle: the greatest relative distance to the circle through (r, 0).
      diamond: likewise to the l1 ball through (r, 0).
    """

    radii: np.ndarray
    circle: float
    diamond: float


norms = jax.jit(jax.vmap(ef_optax.measures.l12_norm))


@jax.jit
def radii(level: Any, sigma: Any, angles: jax.Array) -> jax.Array:
    """Returns how far from 0 the norm has a level, in each direction, by bisection."""
    units = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    norm = jax.vmap(functools.partial(ef_optax.measures.l12_norm, sigma=sigma))
    # The norm is between the l1 norm without noise and a multiple of the squared one.
    high = jnp.full(len(units), 2 * (level + jnp.sqrt(2 * level * sigma)))

    def halve(_: int, bounds: Any) -> Any:
        low, high = bounds
        middle = (low + high) / 2
        below = norm(middle[:, None] * units) < level
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(high), high))
    return (low + high) / 2


def measure(level: float, sigma: float, directions: int) -> Shape:
    """Measures a level set in so many directions."""
    angles = np.linspace(0, 2 * np.pi, directions)
    found = np.asarray(radii(np.float32(level), np.float32(sigma), angles))
    size = found[0]
    diamond = size / (np.abs(np.cos(angles)) + np.abs(np.sin(angles)))
    return Shape(
        found,
        float(np.abs(found / size - 1).max()),
        float(np.abs(found / diamond - 1).max()),
    )


def level_at(distance: float, sigma: float) -> float:
    """Returns the norm of (distance, 0)."""
    gradient = np.array([distance, 0.0], np.float32)
    return float(ef_optax.measures.l12_norm(gradient, sigma))


def worst_ratios(
    config: Config,
) -> tuple[list[float], list[float], str]:
    """Returns the greatest (smaller side) / (larger side) of the four inequalities.

    Returns:
      With sigma_i = c|g_i| + c'; with sigma_i at most that; the worst point of all.
    """
    rng = np.random.default_rng([config.seed, 0])
    shape = (config.samples, 2)
    exact, printed = np.zeros(4), np.zeros(4)
    where = ""
    for c, rest in itertools.product(config.constants, config.constants):
        g = (10 ** rng.uniform(-2, 2, shape)).astype(np.float32)
        most = c * g + rest
        part = rng.uniform(0, 1, shape).astype(np.float32)
        for sigma, worst in ((most, exact), (part * most, printed)):
            ratios = _ratios(g, sigma, c, rest)
            if worst is printed and ratios.max() > worst.max():
                i = int(ratios.max(axis=0).argmax())
                where = (
                    f"g = ({g[i, 0]:.3g}, {g[i, 1]:.3g}), sigma = ({sigma[i, 0]:.3g}, "
                    f"{sigma[i, 1]:.3g}), c = {c:g}, c' = {rest:g}"
                )
            np.maximum(worst, ratios.max(axis=1), out=worst)
    return exact.tolist(), printed.tolist(), where


def _ratios(g: np.ndarray, sigma: np.ndarray, c: float, rest: float) -> np.ndarray:
    """Returns the sides of the four inequalities divided, [4, samples]."""
    root = 3**0.5
    norm = np.asarray(norms(g, sigma), np.float64)
    square, absolute = (g.astype(np.float64) ** 2).sum(axis=1), g.sum(axis=1)
    greatest, least = g.max(axis=1), g.min(axis=1)
    return np.stack([
        square / ((1 + root * c) * greatest + root * rest) / norm,
        norm / (square / (root * rest)),
        absolute / (1 + root * (c + rest / least)) / norm,
        norm / (absolute / (1 + root * c)),
    ])

"""The problems on which signSGD fails."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Counterexample 1: f = x/4 on [-1, 1], of whose gradients one in four is 4, three -1.
GRADIENTS_1 = np.array([4.0, -1.0, -1.0, -1.0])

# Where f of counterexamples 2 and 3 is least on the line x1 + x2 = 2.
LEAST = np.array([1.0, 1.0])


def loss_1(x: Any) -> Any:
    """Counterexample 1."""
    return x / 4


def loss_2(x: Any, epsilon: Any) -> Any:
    """Counterexample 2: eps |x1 + x2| + |x1 - x2|, of points [..., 2]."""
    return epsilon * abs(x[..., 0] + x[..., 1]) + abs(x[..., 0] - x[..., 1])


def subgradient_2(x: Any, zero: Any, epsilon: Any) -> jax.Array:
    """A subgradient of counterexample 2; `zero` [2] is what takes the place of sign(0).

    Any from -1 to 1 gives a subgradient.
    """
    sums = jnp.stack([x[0] + x[1], x[0] - x[1]])
    first, second = jnp.where(sums == 0, zero, jnp.sign(sums))
    return jnp.stack([epsilon * first + second, epsilon * first - second])


def vectors_3(epsilon: Any) -> jax.Array:
    """a_1 and a_2 of counterexample 3, as rows."""
    return jnp.array([[1.0, -1.0], [-1.0, 1.0]]) + epsilon


def loss_3(x: Any, epsilon: Any) -> Any:
    """Counterexample 3: <a_1, x>^2 + <a_2, x>^2, of points [..., 2]."""
    across, along = x[..., 0] - x[..., 1], x[..., 0] + x[..., 1]
    return (across + epsilon * along) ** 2 + (epsilon * along - across) ** 2


def gradient_3(x: Any, term: Any, epsilon: Any) -> jax.Array:
    """The gradient of one of the two terms of counterexample 3."""
    a = vectors_3(epsilon)[term]
    return 2 * jnp.dot(a, x) * a


class Linear(NamedTuple):
    """A problem of Theorem I: the sum over i of l(<a_i, x - x*>).

    Attributes:
      rows: the a_i, of length 1, whose signs are all ±s.
      signs: s.
      best: x*, the only optimum.
      start: x_0.
    """

    rows: np.ndarray
    signs: np.ndarray
    best: np.ndarray
    start: np.ndarray


def linear(dimension: int, points: int, seed: int) -> Linear:
    """Draws a problem of Theorem I, its signs and its start at random."""
    rng = np.random.default_rng((seed, dimension))
    signs = rng.choice([-1.0, 1.0], dimension)
    rows = np.abs(rng.standard_normal((points, dimension))) * signs
    rows *= rng.choice([-1.0, 1.0], (points, 1))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Linear(rows, signs, *rng.standard_normal((2, dimension)))


LOSSES = ("z^2 / 2", "log cosh z")


def gradient_linear(
    x: Any, term: Any, problem: Linear, loss: Any
) -> jax.Array:
    """The gradient of one term of a problem of Theorem I; `loss` counts LOSSES."""
    a = jnp.asarray(problem.rows)[term]
    margin = jnp.dot(a, x - problem.best)
    return a * jnp.where(loss == 0, margin, jnp.tanh(margin))

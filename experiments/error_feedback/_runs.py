"""Runs of an optimizer on the mean of |<a_i, x>|."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ef_optax


class Problem(NamedTuple):
    """The function, and where runs start and what they draw, of every seed.

    Attributes:
      a: the a_i, [rows, *shape].
      x_0: [seeds, *shape], of norm 1.
      drawn: [seeds, steps], the i of every step.
    """

    a: np.ndarray
    x_0: np.ndarray
    drawn: np.ndarray

    @property
    def sigma(self) -> float:
        """The root of the second moment of a stochastic gradient."""
        return math.sqrt(float((self.a**2).sum()) / len(self.a))


class Traced(NamedTuple):
    """What was measured at every step.

    Attributes:
      gap: [seeds, steps], of ‖(x_t - e_t) - (x_0 - γ Σ g_i)‖.
      error: [seeds, steps], of ‖e_t‖.
      last: [seeds, *shape], the last iterates.
    """

    gap: np.ndarray
    error: np.ndarray
    last: np.ndarray


def problem_of(config: Any) -> Problem:
    """Returns the function and what is random, for the longest run."""
    rng = np.random.default_rng(1)
    size, seeds = math.prod(config.shape), config.seeds
    a = rng.standard_normal((config.rows, *config.shape)) / math.sqrt(size)
    x_0 = rng.standard_normal((seeds, *config.shape))
    x_0 /= np.sqrt((x_0**2).sum(axis=(1, 2), keepdims=True))
    steps = max(config.steps, *(horizon + 1 for horizon in config.horizons))
    drawn = rng.integers(0, config.rows, (seeds, steps), np.int32)
    return Problem(a.astype(np.float32), x_0.astype(np.float32), drawn)


def trace(problem: Problem, optimizer: Any, rate: float, steps: int) -> Traced:
    """Takes steps of an optimizer from every seed, and looks at each."""

    def one(x_0: Any, drawn: Any) -> Any:
        def step(carry: Any, i: jax.Array) -> Any:
            x, state, moved = carry
            g = gradient(problem.a, x, i)
            updates, state = optimizer.update(g, state, x)
            x, moved = optax.apply_updates(x, updates), moved - rate * g
            # The library keeps the error with the sign of its updates: -e_t.
            error = sum(_errors(state), jnp.zeros_like(x))
            gap = jnp.linalg.norm((x + error) - (x_0 + moved))
            return (x, state, moved), (gap, jnp.linalg.norm(error))

        carry = x_0, optimizer.init(x_0), jnp.zeros_like(x_0)
        (x, _, _), (gap, error) = jax.lax.scan(step, carry, drawn)
        return Traced(gap, error, x)

    traced = jax.jit(jax.vmap(one))(problem.x_0, problem.drawn[:, :steps])
    return Traced(*map(np.asarray, traced))


def reach(
    problem: Problem,
    make: Callable[[Any], Any],
    rates: Sequence[float],
    horizons: Sequence[int],
) -> list[tuple[np.ndarray, int]]:
    """Returns f of the mean of x_0 to x_T at each horizon T, of every seed.

    Beside it stands how many coordinates one step changed at most.
    """

    def one(x_0: Any, drawn: Any, rate: Any, horizon: Any) -> Any:
        optimizer = make(rate)

        def step(t: jax.Array, carry: Any) -> Any:
            x, state, total, most = carry
            g = gradient(problem.a, x, drawn[t])
            updates, state = optimizer.update(g, state, x)
            most = jnp.maximum(most, jnp.count_nonzero(updates))
            return optax.apply_updates(x, updates), state, total + x, most

        carry = x_0, optimizer.init(x_0), jnp.zeros_like(x_0), jnp.zeros((), jnp.int32)
        _, _, total, most = jax.lax.fori_loop(0, horizon + 1, step, carry)
        mean = total / (horizon + 1)
        return jnp.abs(jnp.einsum("nij,ij->n", problem.a, mean)).mean(), most

    # One program for all horizons.
    compiled = jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))
    found = []
    for rate, horizon in zip(rates, horizons, strict=True):
        value, most = compiled(
            problem.x_0, problem.drawn, jnp.float32(rate), jnp.int32(horizon)
        )
        found.append((np.asarray(value), int(most.max())))
    return found


def gradient(a: Any, x: jax.Array, i: jax.Array) -> jax.Array:
    """Returns the subgradient of |<a_i, x>|."""
    row = jnp.asarray(a)[i]
    return jnp.sign(jnp.sum(row * x)) * row


def theorem_iii(sigma: float, horizon: int, delta: float) -> tuple[float, float]:
    """Returns Remark 6's step size and Theorem III's bound with it, for ‖x_0‖ = 1.

    The proof gives ‖x_0 - x*‖²/(2γ(T+1)) + γσ²(½ + 2√(1-δ)/δ), which is least at this
    step size; the printed theorem is larger, the printed remark has 2 for this 4.
    """
    root = math.sqrt((1 + 4 * math.sqrt(1 - delta) / delta) / (horizon + 1))
    return root / sigma / (1 + 4 * math.sqrt(1 - delta) / delta), sigma * root


def _errors(state: Any) -> list[Any]:
    """Returns the errors kept in a state; without feedback there is none."""

    def is_feedback(node: Any) -> bool:
        return isinstance(node, ef_optax.ErrorFeedbackState)

    nodes = jax.tree.leaves(state, is_leaf=is_feedback)
    return [node.error for node in nodes if is_feedback(node)]

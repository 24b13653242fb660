"""The span of the gradients seen so far, kept while descending."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SpanState(NamedTuple):
    """Gradients as they span, and how long the longest of them was.

    Attributes:
      basis: orthonormal rows, and zeros where there are none yet, [room, d].
      rank: how many rows; one that finds no room makes the distances NaN.
      largest: the largest norm of a gradient.
    """

    basis: jax.Array
    rank: jax.Array
    largest: jax.Array


def remember_span(
    room: int, tolerance: float = 1e-7
) -> optax.GradientTransformation:
    """Passes gradients on and remembers their span, one at a time.

    `ef_optax.measures.span_distance` takes all gradients at once; that would be a
    decomposition at every step.

    Args:
      room: for so many dimensions.
      tolerance: what part of a gradient must be new to count as another dimension.
    """

    def init(params: Any) -> SpanState:
        return SpanState(
            jnp.zeros((room, params.size), params.dtype), jnp.zeros((), jnp.int32),
            jnp.zeros((), params.dtype),
        )

    def update(g: Any, state: SpanState, params: Any = None) -> tuple[Any, SpanState]:
        del params
        length = jnp.linalg.norm(g)
        new = beyond(g / jnp.where(length > 0, length, 1), state.basis)
        rest = jnp.linalg.norm(new)
        add = rest > tolerance
        row = jnp.where(add, new / jnp.where(add, rest, 1), 0)
        # Out of room the row is dropped, but the rank goes on to count.
        basis = state.basis.at[state.rank].add(row, mode="drop")
        return g, SpanState(
            basis, state.rank + add, jnp.maximum(state.largest, length)
        )

    return optax.GradientTransformation(init, update)


def beyond(x: jax.Array, basis: jax.Array) -> jax.Array:
    """Returns what of x lies beyond the span of orthonormal rows."""
    for _ in range(2):  # once more takes away what rounding left
        x = x - basis.T @ (basis @ x)
    return x


def span_distance(x: jax.Array, state: SpanState) -> jax.Array:
    """Returns the distance of x from the span; NaN if there was no room for it."""
    enough = state.rank <= len(state.basis)
    return jnp.where(enough, jnp.linalg.norm(beyond(x, state.basis)), jnp.nan)

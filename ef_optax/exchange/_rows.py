"""Leaves cut into one row for each worker."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ef_optax._checks import size_of


def row_length(size: int, rows: int) -> int:
    """Returns the length of each of `rows` rows that hold `size` numbers."""
    return -(-size // rows)


def paddings(tree: Any, rows: int) -> list[int]:
    """Returns for every leaf by how many numbers its rows exceed it."""
    sizes = [size_of(x) for x in jax.tree.leaves(tree)]
    return [rows * row_length(n, rows) - n for n in sizes]


def to_rows(tree: Any, rows: int) -> Any:
    """Returns every leaf as [rows, length], flattened, with zeros at the end."""

    def cut(x: jax.Array) -> jax.Array:
        length = row_length(x.size, rows)
        flat = x.reshape(-1)
        if rows * length > x.size:
            flat = jnp.pad(flat, (0, rows * length - x.size))
        return flat.reshape(rows, length)

    return jax.tree.map(cut, tree)


def from_rows(tree: Any, like: Any) -> Any:
    """Returns rows as leaves again, in the shapes of `like`."""

    def join(x: jax.Array, y: Any) -> jax.Array:
        flat = x.reshape(-1)
        size = size_of(y)
        if flat.size > size:
            flat = lax.slice_in_dim(flat, 0, size)
        return flat.reshape(jnp.shape(y))

    return jax.tree.map(join, tree, like)

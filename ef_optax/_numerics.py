"""Reductions and selections that more than one method uses, written once."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def wide(dtype: Any) -> Any:
    """Returns the dtype to accumulate in: float32 for 16-bit floats."""
    return jnp.promote_types(dtype, jnp.float32)


def abs_sum(x: jax.Array) -> jax.Array:
    """Returns the l1-norm of one leaf, accumulated in at least float32."""
    return jnp.sum(jnp.abs(x.astype(wide(x.dtype))))


def norm2(x: jax.Array) -> jax.Array:
    """Returns the l2-norm of one leaf without overflow or underflow of squares."""
    x = x.astype(wide(x.dtype))
    if x.size == 0:
        return jnp.zeros((), x.dtype)
    # A power of two near the largest entry, so that scaling rounds nothing.
    largest = jnp.max(jnp.abs(x))
    exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))[1]
    half = exponent // 2
    up = jnp.ldexp(jnp.ones((), x.dtype), half)
    rest = jnp.ldexp(jnp.ones((), x.dtype), exponent - half)
    return jnp.sqrt(jnp.sum(jnp.square(x / up / rest))) * up * rest


def all_finite(tree: Any) -> jax.Array:
    """Returns whether every leaf's l1-norm is finite, as one boolean.

    A leaf whose entries are finite but whose l1-norm overflows counts as not finite:
    its scale could not be sent.
    """
    sums = [abs_sum(x) for x in jax.tree.leaves(tree)]
    dtype = functools.reduce(jnp.promote_types, (s.dtype for s in sums), jnp.float32)
    # One array, one comparison; and a barrier, or XLA copies the whole chain of them
    # into each of the kernels that ask (33 s to compile 161 leaves instead of 3).
    finite = jnp.all(jnp.isfinite(jnp.stack([jnp.zeros((), dtype)] + [
        s.astype(dtype) for s in sums
    ])))
    return lax.optimization_barrier(finite)


def keep_if(finite: jax.Array, new: Any, old: Any) -> Any:
    """Returns `new` where `finite`, else `old`, leaf by leaf."""

    def select(n, o):
        return n if n is o else jnp.where(finite, n, o)

    return jax.tree.map(select, new, old)


def zero_unless(finite: jax.Array, tree: Any) -> Any:
    """Returns `tree` where `finite`, else 0 everywhere."""
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), tree)


def nan_unless(finite: jax.Array, tree: Any) -> Any:
    """Returns `tree` where `finite`, else NaN everywhere."""
    return jax.tree.map(
        lambda x: lax.select(
            jnp.broadcast_to(finite, x.shape), x, jnp.full_like(x, jnp.nan)
        ),
        tree,
    )


def cast_like(tree: Any, like: Any) -> Any:
    """Casts every leaf to the dtype of its counterpart."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)

"""Reductions and selections that more than one method uses, written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_ROW = 32
_SMALL = 4096


def wide(dtype: Any) -> Any:
    """Returns the dtype to accumulate in: float32 for 16-bit floats."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(tree: Any) -> Any:
    """Returns the leaves in dtypes that hold their sum."""
    return jax.tree.map(lambda x: x.astype(wide(x.dtype)), tree)


def abs_sum(x: jax.Array) -> jax.Array:
    """Returns the l1-norm of one leaf, accumulated in at least float32.

    Where it overflows, the largest finite number: a scale that is too small contracts
    all the same, an infinite one would destroy the error.
    """
    x = x.astype(wide(x.dtype))
    return jnp.minimum(jnp.sum(jnp.abs(x)), jnp.finfo(x.dtype).max)


def cast_varying(x: jax.Array, axes: Iterable[str]) -> jax.Array:
    """Returns `x`, typed as varying over these manual mesh axes too."""
    missing = tuple(sorted(set(axes) - varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def varying_axes(x: Any) -> frozenset[str]:
    """Returns the manual mesh axes over which the type of `x` varies."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


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
    norm = jnp.sqrt(jnp.sum(jnp.square(x / up / rest))) * up * rest
    return jnp.minimum(norm, jnp.finfo(x.dtype).max)


def all_finite(tree: Any) -> jax.Array:
    """Returns whether every number of a pytree is finite, as one boolean."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.array(True)
    if any(_is_split(x) for x in leaves):
        return _all_finite(*leaves)
    return lax.platform_dependent(*leaves, cpu=_all_finite_by_rows, default=_all_finite)


def _is_split(x: jax.Array) -> bool:
    """Returns whether the type of an array says that a mesh splits it."""
    return any(axes is not None for axes in jax.typeof(x).sharding.spec)


def _all_finite(*leaves: jax.Array) -> jax.Array:
    return ~jnp.any(jnp.stack([jnp.any(~jnp.isfinite(x)) for x in leaves]))


def _all_finite_by_rows(*leaves: jax.Array) -> jax.Array:
    # Small leaves together, and one reduction at the end: each kernel costs time to
    # compile and to start.
    small: dict[Any, list[jax.Array]] = {}
    flat = [x.reshape(-1) for x in leaves]
    for x in flat:
        if x.size < _SMALL:
            small.setdefault(x.dtype, []).append(x)
    large = [x for x in flat if x.size >= _SMALL]
    together = [jnp.concatenate(xs) for xs in small.values()]
    counts = [_count_by_row(~jnp.isfinite(x)) for x in (*large, *together)]
    # Counts, compared after they are joined: XLA would copy a chain of booleans into
    # each of the kernels that ask for it (161 leaves took 33 s to compile).
    return ~jnp.any(jnp.concatenate([jnp.zeros((1,), jnp.uint8), *counts]) > 0)


def _count_by_row(mask: jax.Array) -> jax.Array:
    """Returns how many elements are set in each row of 32 of a flat mask."""
    # XLA's CPU backend reduces rows of this length at the speed of memory, together
    # with whatever made the mask; a sum in one go would first store what made it.
    rows = jnp.pad(mask, (0, -mask.size % _ROW)).reshape(-1, _ROW)
    return jnp.sum(rows, axis=1, dtype=jnp.uint8)


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
        lambda x: jnp.where(finite, x, jnp.full_like(x, jnp.nan)), tree
    )


def flag_of(finite: jax.Array, dtype: Any) -> jax.Array:
    """Returns the flag that a message carries: 0 if its input is finite, else 1."""
    return jnp.where(finite, 0, 1).astype(dtype)


def guard(
    step: Callable[[Any, Any], tuple[Any, Any]],
    finite: jax.Array,
    updates: Any,
    state: Any,
) -> tuple[Any, Any]:
    """Takes a step on finite updates; for others gives NaN and the state as it was."""
    # Without what is not finite: LAPACK's SVD would not come back from it.
    out, new_state = step(zero_unless(finite, updates), state)
    return nan_unless(finite, out), keep_if(finite, new_state, state)


def first_axis(tree: Any) -> Any:
    """Returns every leaf with an axis of one in front."""
    return jax.tree.map(lambda x: x[None], tree)


def without_axis(tree: Any) -> Any:
    """Returns every leaf without its first axis, which is of one."""
    return jax.tree.map(lambda x: x.reshape(x.shape[1:]), tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Casts every leaf to the dtype of its counterpart."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)

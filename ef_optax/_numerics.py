"""Arithmetic on leaves and trees that more than one method uses, written once."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ef_optax import _cpu


def concrete(value: Any) -> float | None:
    """Returns the number of a scalar that is known now, None for any other value."""
    if isinstance(value, jax.core.Tracer | str) or callable(value):
        return None
    return float(value) if value is not None and np.ndim(value) == 0 else None


def wide(dtype: Any) -> Any:
    """Returns the dtype to accumulate in: float32 for 16-bit floats."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(tree: Any) -> Any:
    """Returns the leaves in dtypes that hold their sum."""
    return jax.tree.map(lambda x: x.astype(wide(x.dtype)), tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Casts every leaf to the dtype of its counterpart."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def leaf_dtype(x: Any) -> Any:
    """Returns the dtype of an array, a ShapeDtypeStruct or a Python float, in JAX."""
    dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
    # NumPy's float64 is float32 in JAX, which warns of it where an array is made so.
    of_numpy = isinstance(dtype, np.dtype)
    return jax.dtypes.canonicalize_dtype(dtype) if of_numpy else dtype


def size_of(x: Any) -> int:
    """Returns the number of elements of an array or a ShapeDtypeStruct."""
    return math.prod(jnp.shape(x))


def sizes(params: Any) -> list[int]:
    """Returns the sizes of the leaves that are not empty, at least one number."""
    found = [n for x in jax.tree.leaves(params) if (n := size_of(x)) > 0]
    return found or [1]


def within(x: jax.Array, dtype: Any = None) -> jax.Array:
    """Returns x, or where it is beyond the largest finite number of a dtype, that."""
    largest = jnp.finfo(dtype or x.dtype).max.astype(x.dtype)
    # By selection: XLA's CPU backend writes it in place, which it does not for clip.
    return jnp.where(jnp.abs(x) > largest, jnp.copysign(largest, x), x)


def abs_sum(x: jax.Array) -> jax.Array:
    """Returns the l1-norm of one leaf, accumulated in at least float32.

    Where it overflows, the largest finite number: a scale that is too small contracts
    all the same, an infinite one would destroy the error.
    """
    return within(jnp.sum(jnp.abs(x.astype(wide(x.dtype)))))


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
    return within(jnp.sqrt(jnp.sum(jnp.square(x / up / rest))) * up * rest)


def varying_axes(x: Any) -> frozenset[str]:
    """Returns the manual mesh axes over which the type of `x` varies."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def cast_varying(x: jax.Array, axes: Iterable[str]) -> jax.Array:
    """Returns `x`, typed as varying over these manual mesh axes too."""
    missing = tuple(sorted(set(axes) - varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def all_finite(tree: Any, workers: int = 0) -> jax.Array:
    """Returns whether every number of a pytree is finite, as one boolean.

    With `workers`, whether it is also so far from the largest number that sums over a
    leaf and the workers, and the errors that are left of them, stay finite: of a leaf
    of a million numbers and 8 workers, below 5e24 in float32.
    """
    leaves = jax.tree.leaves(tree)
    limits = [
        float(jnp.finfo(x.dtype).max) / max(workers * x.size, 1) ** 2 for x in leaves
    ]
    return _cpu.all_within(leaves, limits) if leaves else jnp.array(True)


def keep_if(finite: jax.Array, new: Any, old: Any) -> Any:
    """Returns `new` where `finite`, else `old`, leaf by leaf."""

    def select(n: Any, o: Any) -> Any:
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

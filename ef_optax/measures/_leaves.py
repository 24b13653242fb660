"""Leaves of a pytree as real arrays: which are allowed, and sums that keep range."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ALLOWED = "floating-point leaves (float16, bfloat16, float32, float64)"


def accumulator(leaf: Any, function: str, argument: str, path: str = "") -> Any:
    """Dtype that sums over `leaf` are made in: float32, or float64 for float64."""
    try:
        dtype = jnp.result_type(leaf)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        given = type(leaf).__name__ if dtype is None else f"dtype {dtype}"
        raise ValueError(
            f"{function}: {argument}{path} has {given}; allowed: {ALLOWED}. "
            "Leave other leaves out (optax.masked, or None) or cast them."
        )
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def float_leaves(
    tree: Any, function: str, argument: str, *, common: bool = True
) -> list[jax.Array]:
    """Leaves of `tree` in accumulator dtypes, one dtype for all if `common`.

    None and MaskedNode hold no leaf.
    """
    found = jax.tree_util.tree_leaves_with_path(tree)
    dtypes = [
        accumulator(leaf, function, argument, jax.tree_util.keystr(path))
        for path, leaf in found
    ]
    if common and jnp.dtype(jnp.float64) in dtypes:
        dtypes = [jnp.dtype(jnp.float64)] * len(dtypes)
    return [
        jnp.asarray(leaf, dtype)
        for (_, leaf), dtype in zip(found, dtypes, strict=True)
    ]


def same_structure(tree: Any, other: Any) -> bool:
    """Whether two pytrees have the same structure."""
    structure: Any = jax.tree.structure
    return bool(structure(tree) == structure(other))


def size(leaves: Sequence[jax.Array]) -> int:
    """Number of coordinates in all leaves together."""
    return sum(math.prod(leaf.shape) for leaf in leaves)


def scale_of(leaves: Sequence[jax.Array]) -> jax.Array:
    """Largest magnitude, or 1 where dividing by it would say nothing (0, inf, NaN).

    Squares of entries divided by it neither overflow nor all underflow.
    """
    maxima = [jnp.max(jnp.abs(leaf)) for leaf in leaves if leaf.size]
    if not maxima:
        return jnp.ones((), jnp.float32)
    largest = functools.reduce(jnp.maximum, maxima)
    return jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)


def total(terms: Sequence[jax.Array]) -> jax.Array:
    """Sum of every entry of every term; 0 for none."""
    if not terms:
        return jnp.zeros((), jnp.float32)
    return functools.reduce(jnp.add, [jnp.sum(term) for term in terms])


def scaled_squares(leaves: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The pair (s, q) with sum of squares s² q, and q in range whatever s is."""
    scale = scale_of(leaves)
    return scale, total([jnp.square(leaf / scale) for leaf in leaves])


def paired(
    tree: Any, other: Any, function: str, argument: str
) -> list[tuple[jax.Array, jax.Array]]:
    """Leaves of `tree`, each with its leaf of `other` or with the scalar `other`."""
    leaves = float_leaves(tree, function, "g")
    if isinstance(other, int) and not isinstance(other, bool):
        other = float(other)  # a plain 1 or 0 means the scalar
    others = float_leaves(other, function, argument)
    if not same_structure(tree, other):
        if not same_structure(other, 0) or others[0].ndim:
            raise ValueError(
                f"{function}: {argument} has structure {jax.tree.structure(other)}; "
                f"allowed: a scalar, or the structure of g, {jax.tree.structure(tree)}."
            )
        others = others * len(leaves)
    for leaf, value in zip(leaves, others, strict=True):
        if value.shape not in ((), leaf.shape):
            raise ValueError(
                f"{function}: a leaf of {argument} has shape {value.shape}; "
                f"allowed: the shape of its leaf of g, {leaf.shape}, or ()."
            )
    return [
        (leaf, value.astype(leaf.dtype))
        for leaf, value in zip(leaves, others, strict=True)
    ]


def concrete(value: Any) -> np.ndarray | None:
    """The value on the host, or None while traced or spread over processes."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    return np.asarray(value)


def check_range(
    tree: Any, function: str, argument: str, low: float, high: float
) -> None:
    """Raise ValueError unless every concrete entry is in [low, high].

    `tree` is what the caller gave: under jit, whatever jnp makes of it is traced.
    """
    for value in jax.tree.leaves(tree):
        known = concrete(value)
        if known is None:
            continue
        wrong = known[~((known >= low) & (known <= high))]  # so NaN is wrong too
        if wrong.size:
            raise ValueError(
                f"{function}: {argument} holds {wrong.flat[0]}; "
                f"allowed: values in [{low}, {high}]."
            )

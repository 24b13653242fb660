"""Sums over a whole pytree that neither overflow nor underflow."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ef_optax._checks import check_float_leaves
from ef_optax._numerics import wide


def as_accumulators(name: str, tree: Any) -> Any:
    """Returns the leaves as arrays of one dtype to sum in: float32 or float64."""
    check_float_leaves(name, tree)
    dtypes = [wide(jnp.result_type(x)) for x in jax.tree.leaves(tree)]
    dtype = jnp.result_type(jnp.float32, *dtypes)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def largest(leaves: Iterable[jax.Array]) -> jax.Array:
    """Returns the largest magnitude; 1 where that is 0, infinite or NaN.

    Squares of entries divided by it neither overflow nor all underflow.
    """
    found = jnp.zeros((), jnp.float32)
    for leaf in leaves:
        found = jnp.maximum(found, jnp.max(jnp.abs(leaf), initial=0))
    return jnp.where(jnp.isfinite(found) & (found > 0), found, 1)


def total(terms: Iterable[jax.Array]) -> jax.Array:
    """Returns the sum of all entries of all terms; 0 for none."""
    return sum((jnp.sum(term) for term in terms), start=jnp.zeros((), jnp.float32))


def scaled_squares(tree: Any) -> tuple[jax.Array, jax.Array]:
    """Returns (s, q) where s² q is the sum of squares, and q is in range for any s."""
    leaves = jax.tree.leaves(tree)
    scale = largest(leaves)
    return scale, total(jnp.square(leaf / scale) for leaf in leaves)

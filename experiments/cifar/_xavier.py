"""Xavier's initial values for any network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def xavier(key: Any, shapes: Any) -> Any:
    """Returns initial values of a network of these shapes.

    Kernels are uniform with the variance 2 / (fan_in + fan_out) of Glorot and Bengio;
    offsets are 0 and factors of normalisations 1.
    """
    glorot = jax.nn.initializers.glorot_uniform()
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    values = []
    for number, (path, leaf) in enumerate(leaves):
        kind = path[-1].key
        if kind == "kernel":
            value = glorot(jax.random.fold_in(key, number), leaf.shape, leaf.dtype)
        else:
            fill = jnp.ones if kind in ("scale", "var") else jnp.zeros
            value = fill(leaf.shape, leaf.dtype)
        values.append(value)
    return jax.tree_util.tree_unflatten(treedef, values)

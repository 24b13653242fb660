"""Distance of a pytree to the span of others."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ef_optax.measures import _leaves


def _rows(tree: Any, vectors: Any) -> jax.Array:
    """The vectors as rows of a matrix; structures tell the two forms apart."""
    treedef = jax.tree.structure(tree)
    if _leaves.same_structure(vectors, tree):
        leaves = _leaves.float_leaves(vectors, "span_distance", "vectors")
        counts = {leaf.shape[:1] for leaf in leaves}
        if len(counts) > 1 or () in counts:
            raise ValueError(
                "span_distance: vectors, taken as stacked, has shapes "
                f"{[leaf.shape for leaf in leaves]}; allowed: one leading axis, "
                "equally long in all leaves."
            )
        count = leaves[0].shape[0] if leaves else 0
    elif isinstance(vectors, Sequence) and all(
        _leaves.same_structure(vector, tree) for vector in vectors
    ):
        count = len(vectors)
        each = [
            _leaves.float_leaves(vector, "span_distance", f"vectors[{i}]")
            for i, vector in enumerate(vectors)
        ]
        shapes = [[leaf.shape for leaf in vector] for vector in each]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f"span_distance: vectors have leaf shapes {shapes}; "
                "allowed: the shapes of tree in each."
            )
        leaves = [jnp.stack(leaf) for leaf in zip(*each, strict=True)]
    else:
        raise ValueError(
            "span_distance: vectors has structure "
            f"{jax.tree.structure(vectors)}; allowed: a list of pytrees of the "
            f"structure of tree, {treedef}, or one such pytree with a leading axis."
        )
    if not count or not leaves:
        return jnp.zeros((count, 0))
    wanted = [leaf.shape for leaf in _leaves.float_leaves(tree, "span_distance", "")]
    if [leaf.shape[1:] for leaf in leaves] != wanted:
        raise ValueError(
            "span_distance: the vectors have leaf shapes "
            f"{[leaf.shape[1:] for leaf in leaves]}; allowed: those of tree, {wanted}."
        )
    return jnp.concatenate(
        [leaf.reshape(count, leaf.size // count) for leaf in leaves], axis=1
    )


def _basis(rows: jax.Array) -> jax.Array:
    """Orthonormal rows spanning `rows`; zero rows stand for missing dimensions."""
    # The span does not depend on lengths, so the rank should not either.
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    rows = rows / jnp.where(largest > 0, largest, 1)
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / jnp.where(length > 0, length, 1)
    _, values, basis = jnp.linalg.svd(rows, full_matrices=False)
    count, dimension = rows.shape
    # Entries rounded to eps move the singular values of unit rows by about
    # eps √count; the rest is room for the decomposition itself. (The usual
    # eps·max(shape) would drop real directions of a model with 1e6 parameters.)
    tolerance = jnp.finfo(rows.dtype).eps * (count + dimension**0.5)
    return jnp.where((values > tolerance * values[0])[:, None], basis, 0)


def span_distance(tree: optax.Params, vectors: Any) -> jax.Array:
    r"""Euclidean distance of a pytree to the linear span of others.

    .. math::

      \min_{a} \Big\|x - \sum_i a_i g_i\Big\|_2 = \|x - \Pi_G\, x\|_2

    With x₀ = 0 and the gradients seen so far, the iterate of SGD has distance 0, and
    that of error feedback at most the norm of its error.

    Args:
      tree: pytree of floating-point arrays, x (minus x₀, if that is not 0).
      vectors: the g_i: a list or tuple of pytrees of x's structure and shapes, or
        one pytree of x's structure whose leaves have a leading axis of equal
        length. They may be dependent, repeated, zero, more than the dimension, and
        of very different lengths; an empty list spans 0.

    Returns:
      Scalar, float32 (float64 if a leaf is). The floor is the rounding of x, about
      1e-7 ‖x‖ in float32. Directions within about ``eps * (n + sqrt(d))`` of
      dependent, for n vectors of d coordinates, count as dependent. NaN or infinite
      vectors give NaN.

    Raises:
      ValueError: structures or shapes do not match, or a leaf is not floating point.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> plane = [jnp.array([1., 1., 0.]), jnp.array([1., -1., 0.])]
      >>> print(measures.span_distance(jnp.array([5., 6., 7.]), plane))
      7.0

    References:
      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient
      Compression Schemes <https://arxiv.org/abs/1901.09847>`_, 2019, Theorem IV and
      Remark 10.
    """
    leaves = _leaves.float_leaves(tree, "span_distance", "tree")
    rows = _rows(tree, vectors)
    scale = _leaves.scale_of(leaves)
    if not _leaves.size(leaves):
        return jnp.zeros((), jnp.float32)
    flat = jnp.concatenate([leaf.ravel() for leaf in leaves]) / scale
    if not rows.size:
        return scale * jnp.linalg.norm(flat)
    basis = _basis(rows)
    exact = jax.lax.Precision.HIGHEST
    for _ in range(2):  # once more takes away what rounding left
        inside = jnp.matmul(basis, flat, precision=exact)
        flat = flat - jnp.matmul(inside, basis, precision=exact)
    known = jnp.all(jnp.isfinite(rows))
    return jnp.where(known, scale * jnp.linalg.norm(flat), jnp.nan)

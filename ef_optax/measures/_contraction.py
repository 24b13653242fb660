"""Contraction of a compressor, measured on one vector."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ef_optax.measures import _leaves


def contraction(
    compressor: optax.GradientTransformation,
    tree: optax.Updates,
    state: Any = None,
) -> jax.Array:
    r"""Part of a vector's squared norm that a compressor loses.

    .. math::

      \frac{\|C(x) - x\|_2^2}{\|x\|_2^2}

    A δ-approximate compressor keeps it at or below 1 − δ (in expectation if the
    compressor is random), so 1 minus this is the δ measured at x. It may exceed 1:
    then the compressor does not contract x.

    Args:
      compressor: any ``optax.GradientTransformation``; its ``init`` and ``update``
        are called without parameters.
      tree: pytree of floating-point arrays, x.
      state: the compressor's state; ``compressor.init(tree)`` when None. A random
        compressor draws as this state says: pass the state of a later step, or one
        made from another key, for another draw.

    Returns:
      Scalar, float32 (float64 if a leaf is), over the whole tree. A zero vector
      gives 0, whatever the compressor makes of it.

    Raises:
      ValueError: a leaf is not floating point, ``compressor`` has no ``init`` and
        ``update``, or it changes the tree's structure or a leaf's shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from ef_optax import measures
      >>> half = optax.scale(0.5)
      >>> print(measures.contraction(half, jnp.array([3., 4.])))
      0.25

    References:
      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient
      Compression Schemes <https://arxiv.org/abs/1901.09847>`_, 2019, Assumption A.
    """
    if not (hasattr(compressor, "init") and hasattr(compressor, "update")):
        raise ValueError(
            f"contraction: compressor is {compressor!r}; "
            "allowed: an optax.GradientTransformation."
        )
    given = _leaves.float_leaves(tree, "contraction", "tree")
    if state is None:
        state = compressor.init(tree)
    compressed, _ = compressor.update(tree, state, None)
    kept = _leaves.float_leaves(compressed, "contraction", "compressor's output")
    before = [leaf.shape for leaf in given]
    after = [leaf.shape for leaf in kept]
    if before != after or not _leaves.same_structure(tree, compressed):
        raise ValueError(
            f"contraction: compressor turned shapes {before} into {after}; "
            "allowed: one that keeps the tree's structure and shapes."
        )
    lost = [
        new - old.astype(new.dtype) for old, new in zip(given, kept, strict=True)
    ]
    scale, squares = _leaves.scaled_squares(given)
    lost_scale, lost_squares = _leaves.scaled_squares(lost)
    empty = squares == 0
    # A root first: the square of a ratio of scales may overflow where nothing is lost.
    root = jnp.sqrt(lost_squares / jnp.where(empty, 1, squares))
    return jnp.where(empty, 0, jnp.square(root * (lost_scale / scale)))

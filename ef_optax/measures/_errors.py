"""The errors that error feedback keeps, found anywhere in an optax state."""

from typing import Any

import jax
import jax.numpy as jnp

from ef_optax.feedback import ErrorFeedbackState
from ef_optax.measures import _leaves


def is_feedback(node: Any) -> bool:
    """Whether `node` is the state of error feedback."""
    return isinstance(node, ErrorFeedbackState)


def errors(state: Any) -> list[Any]:
    """The error of every ErrorFeedbackState in `state`, nested ones too."""
    found = []
    for node in jax.tree.leaves(state, is_leaf=is_feedback):
        if is_feedback(node):
            found.append(node.error)
            # A compressor or an exchange may keep feedback of its own.
            for name, field in zip(node._fields, node, strict=True):
                if name != "error":
                    found.extend(errors(field))
    return found


def error_norm(state: Any) -> jax.Array:
    r"""Euclidean norm of all errors kept in an optax state.

    .. math::

      \|e\|_2 = \sqrt{\textstyle\sum_j \|e_j\|_2^2}

    where j runs over every ``ErrorFeedbackState`` in the state, however deep in
    chains, masks or wrappers.

    Args:
      state: any optax state. If it has a leading worker axis, the norm is over all
        workers; inside a mapped axis it is this worker's.

    Returns:
      Scalar, float32 (float64 if an error is), in the unit of the errors: parameter
      units when error feedback comes after the learning rate. Squares cannot
      overflow or underflow.

    Raises:
      ValueError: the state holds no ``ErrorFeedbackState``.

    Examples:
      >>> import jax.numpy as jnp
      >>> import ef_optax
      >>> from ef_optax import measures
      >>> tx = ef_optax.error_feedback(ef_optax.top_k(k=1))
      >>> updates = jnp.array([3., 4., -4.5])
      >>> _, state = tx.update(updates, tx.init(updates))
      >>> print(measures.error_norm(state))
      5.0

    References:
      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient
      Compression Schemes <https://arxiv.org/abs/1901.09847>`_, 2019, Lemma 3 and
      Theorem IV.
    """
    found = errors(state)
    if not found:
        raise ValueError(
            f"error_norm: state is a {type(state).__name__} without any "
            "ErrorFeedbackState; allowed: the state of a transformation that holds "
            "error_feedback."
        )
    scale, squares = _leaves.scaled_squares(
        _leaves.float_leaves(found, "error_norm", "errors")
    )
    return scale * jnp.sqrt(squares)

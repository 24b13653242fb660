"""Leaves that skip compression, averaged in full precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ef_optax._checks import check_state, check_transformation, shown
from ef_optax._numerics import flag_of, nan_unless
from ef_optax.workers._workers import AxisName, Workers


class ExemptState(NamedTuple):
    """State of the transformation that the other leaves go through."""

    inner: Any


def exempt(
    tx: optax.GradientTransformation,
    mask: Any | Callable[[Any], Any],
    axis_name: AxisName = None,
    *,
    allow_unvarying: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Lets some leaves skip `tx`, averaged over the workers in full precision.

    .. math::
      u^{(l)} \leftarrow \begin{cases}
        \frac1M \sum_{i=1}^M u_i^{(l)} & \text{if leaf } l \text{ is exempt},\\
        \text{what } \mathrm{tx} \text{ makes of it} & \text{otherwise.}
      \end{cases}

    Biases, scales of norms and embeddings are few numbers that suffer most from
    compression. :func:`optax.masked` alone would leave them as they are on each
    worker, so that the replicas drift apart without a word.

    Args:
      tx: the transformation for the other leaves, with the exchange in it, such as
        :func:`ef_optax.error_feedback`.
      mask: a pytree of booleans with the structure of the parameters, or a function
        from parameters to one; True exempts a leaf.
      axis_name: the mesh axis of the workers; None for one worker.
      allow_unvarying: whether some gradients (not all) may be the same on all workers.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`. A non-finite value in any leaf
      of any worker makes the whole update NaN on all of them, and what `tx` holds by
      error feedback stays.

    Raises:
      TypeError: if `tx` is no transformation; at init, if the mask is not of booleans.
      ValueError: at init, if the mask has not the structure of the parameters; at
        trace time, if gradients are already summed over the axis.
      NameError: at trace time, if the axis is not bound.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> vectors = lambda tree: jax.tree.map(lambda x: jnp.ndim(x) < 2, tree)
      >>> tx = ef_optax.exempt(
      ...     ef_optax.error_feedback(ef_optax.scaled_sign()), vectors)
      >>> params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
      >>> grads = {"w": jnp.ones((2, 2)), "b": jnp.array([1.0, 3.0])}
      >>> updates, _ = tx.update(grads, tx.init(params))
      >>> print(updates["b"])
      [1. 3.]
    """
    workers = Workers(axis_name)
    check_transformation("exempt", tx)

    def mask_of(tree: Any) -> Any:
        found = mask(tree) if callable(mask) else mask
        _check_mask(found, tree)
        return found

    def others(tree: Any) -> Any:
        return jax.tree.map(lambda m: not m, mask_of(tree))

    inner = optax.with_extra_args_support(optax.masked(tx, others))

    def init_fn(params: Any) -> ExemptState:
        return ExemptState(inner=inner.init(params))

    def update_fn(updates: Any, state: ExemptState, params: Any = None, **extra: Any):
        workers.check_bound()
        check_state("exempt", state, ExemptState)
        workers.check_crossing("exempt", updates)
        workers.refuse_summed("exempt", updates, allow_unvarying)
        # Each part tells the other of a non-finite value by its own flag: the inner
        # transformation sees NaN, the average counts workers whose tree is not finite.
        finite = workers.all_finite(updates)
        compressed, inner_state = inner.update(
            nan_unless(finite, updates), state.inner, params, **extra
        )
        skipped = jax.tree.map(
            lambda m, sub: sub if m else None, mask_of(updates), updates
        )
        mean, bad = workers.mean((skipped, flag_of(finite, jnp.float32)))
        mean = nan_unless(bad == 0, mean)
        # Put the averages back where the mask is True; a mask may be a prefix.
        merged = jax.tree.map(
            lambda m, a, c: a if m else c, mask_of(updates), mean, compressed,
            is_leaf=lambda x: x is None,
        )
        return merged, ExemptState(inner=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_mask(mask: Any, tree: Any) -> None:
    """Refuses a mask that is no pytree of booleans over the tree."""
    bad = [m for m in jax.tree.leaves(mask) if not isinstance(m, bool | np.bool_)]
    if bad:
        raise TypeError(
            "exempt: mask must be a pytree of booleans with the structure of the "
            "parameters, or a function from parameters to one; got "
            f"{shown(bad[0])} in it. True exempts a leaf."
        )
    try:
        jax.tree.map(lambda m, sub: None, mask, tree)
    except ValueError as error:
        raise ValueError(
            "exempt: mask must have the structure of the parameters, "
            f"{shown(jax.tree.structure(tree))}; got {shown(jax.tree.structure(mask))}."
            " True exempts a leaf."
        ) from error

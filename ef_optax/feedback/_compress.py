"""Compression that keeps nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax

from ef_optax._checks import check_like_params, check_state, float_arrays, shown
from ef_optax._numerics import cast_like, widen, zero_unless
from ef_optax.compressors import Compressor
from ef_optax.exchange import Exchange
from ef_optax.feedback._crossing import Crossing
from ef_optax.workers import AxisName, Workers


class CompressState(NamedTuple):
    """State of the compressor and of the exchange."""

    compressor: Any
    exchange: Any


def compress(
    compressor: Compressor,
    *,
    axis_name: AxisName = None,
    exchange: Exchange | None = None,
    allow_unvarying: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Compresses each worker's update and averages over the workers.

    .. math::
      u \leftarrow \frac1M \sum_{i=1}^M C(u_i)

    What compression takes away is lost; :func:`ef_optax.error_feedback` keeps it. An
    unbiased compressor stays as it is.

    Args:
      compressor: a :class:`ef_optax.Compressor`.
      axis_name: the mesh axis of the workers, or a tuple of them; None for one worker.
      exchange: :func:`ef_optax.all_reduce`, :func:`ef_optax.gather` or
        :func:`ef_optax.two_way`; None takes the first for additive compressors and the
        second for others.
      allow_unvarying: whether some gradients (not all) may be the same on all workers.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`. If any worker's input is not
      finite, every worker's update is NaN and the state stays as it was.

    Raises:
      TypeError: if `compressor` is not one.
      ValueError: if messages cannot cross by `exchange`; at trace time, if gradients
        have other shapes than the parameters or are already summed over the axis.
      NameError: at trace time, if the axis is not bound.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.compress(ef_optax.scaled_sign(), axis_name="workers")
      >>> def step(g):
      ...     return tx.update(g, tx.init(g))[0]
      >>> grads = jnp.array([[1.0, -3.0], [4.0, 4.0]])  # of two workers
      >>> print(jax.vmap(step, axis_name="workers")(grads))
      [[3. 1.]
       [3. 1.]]
    """
    workers = Workers(axis_name)
    crossing = Crossing("compress", compressor, workers, exchange)
    if not isinstance(compressor, Compressor):
        raise TypeError(
            "compress needs a compressor, such as scaled_sign(); got "
            f"{shown(compressor)}. Another optax transformation needs no wrapper with "
            "one worker."
        )

    def init_fn(params: Any) -> CompressState:
        return CompressState(*crossing.init(params))

    def update_fn(updates: Any, state: CompressState, params: Any = None, **extra: Any):
        workers.check_bound()
        check_state("compress", state, CompressState)
        updates = float_arrays("compress", updates)
        check_like_params("compress", updates, params)
        workers.check_crossing("compress", updates)
        workers.refuse_summed("compress", updates, allow_unvarying)
        finite = workers.all_finite(updates)
        out = crossing.apply(
            zero_unless(finite, widen(updates)), finite,
            state.compressor, state.exchange, params, extra,
        )
        mean = cast_like(out.mean, updates)
        return mean, CompressState(out.compressor_state, out.state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

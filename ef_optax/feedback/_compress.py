"""Compression that keeps nothing."""

from typing import Any, NamedTuple

import optax

from ef_optax._checks import check_state
from ef_optax._numerics import cast_like, keep_if, nan_unless, widen
from ef_optax.compressors import Compressor
from ef_optax.exchange import Exchange
from ef_optax.feedback._error_feedback import exchange_of
from ef_optax.feedback._exempt import Exempt, exempt
from ef_optax.workers import AxisName, Workers


class CompressState(NamedTuple):
    """State of :func:`ef_optax.compress`.

    Attributes:
      compressor: state of the compressor, the same on all workers.
      exchange: state of the exchange.
    """

    compressor: Any
    exchange: Any


def compress(
    compressor: Compressor | Exempt,
    *,
    axis_name: AxisName = None,
    exchange: Exchange | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Averages compressed updates over the workers, and keeps nothing of the rest.

    .. math::
      u \leftarrow \frac1M \sum_{i=1}^M C(u_i)

    Use it for unbiased compressors, which stay as they are, and as a baseline:
    ``compress(identity(), axis_name=...)`` is the mean in full precision. What
    compression takes away is lost; :func:`ef_optax.error_feedback` keeps it.

    If any worker's input is not finite, or so large that a mean could overflow, every
    worker's update is NaN and the state stays as it was.

    Args:
      compressor: a :class:`ef_optax.Compressor`, or one with :func:`ef_optax.exempt`
        leaves.
      axis_name: the mesh axis of the workers, or a tuple of them; None for one worker.
      exchange: :func:`ef_optax.all_reduce`, :func:`ef_optax.gather` or
        :func:`ef_optax.two_way`; None takes the first for additive compressors and the
        second for others.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs` with :class:`CompressState`.

    Raises:
      ValueError: at init, if messages cannot be sent by `exchange`; at trace time, if
        gradients have other shapes than the parameters or are already summed over the
        axis.
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
    if isinstance(compressor, Exempt):
        rest = compress(compressor.compressor, axis_name=axis_name, exchange=exchange)
        return exempt(rest, compressor.mask, axis_name)
    workers = Workers(axis_name)
    way = exchange_of(compressor, exchange, workers)

    def init_fn(params: Any) -> CompressState:
        return CompressState(
            compressor.init(params), way.init(compressor, params, workers, None)
        )

    def update_fn(updates: Any, state: CompressState, params: Any = None, **extra: Any):
        del extra
        check_state("compress", state, CompressState)
        dtypes = workers.own_updates("compress", updates, params)
        updates = widen(dtypes)
        finite = workers.all_summable(updates)
        out = way.apply(
            compressor, updates, finite, state.compressor, state.exchange, workers, None
        )
        mean = cast_like(nan_unless(out.finite, out.mean), dtypes)
        return mean, CompressState(
            keep_if(out.finite, out.compressor_state, state.compressor), out.state
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

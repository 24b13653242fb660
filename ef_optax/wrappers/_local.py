"""State that belongs to one worker."""

from typing import Any, NamedTuple

import optax

from ef_optax._numerics import guard
from ef_optax.workers import AxisName, Workers


class LocalState(NamedTuple):
    """State of a transformation that differs from worker to worker."""

    inner: Any


LocalState.per_worker = ("inner",)  # type: ignore[attr-defined]


def local(
    tx: optax.GradientTransformation, axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    """Declares the state of `tx` as each worker's own; for momentum before an exchange.

    A transformation that stands before the exchange and keeps state, such as
    momentum, keeps it of this worker's own gradients. `local` types that state as
    varying over the axis, so that :func:`jax.lax.scan` inside :func:`jax.shard_map`
    accepts it, marks it for placement and checkpoints, and refuses gradients that are
    already summed over the workers.

    A gradient that is not finite passes as NaN and leaves the state of this worker as
    it was, so that momentum recovers from it.

    Args:
      tx: a transformation that calls no collective.
      axis_name: the mesh axis of the workers; None for one worker, where the state is
        that of `tx` itself.

    Returns:
      A transformation with :class:`LocalState`.

    Raises:
      ValueError: at trace time, if gradients have other shapes than the parameters or
        are already summed over the axis.

    Examples:
      >>> import optax, ef_optax
      >>> tx = optax.chain(
      ...     ef_optax.local(optax.trace(0.9), "workers"),
      ...     ef_optax.majority_vote("workers"),
      ...     optax.scale_by_learning_rate(1e-3),
      ... )
    """
    workers = Workers(axis_name)
    inner = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any, extra: Any) -> tuple[Any, Any]:
        updates = workers.own_updates("local", updates, params)
        return guard(
            lambda u, s: inner.update(u, s, params, **extra),
            workers.all_finite(updates), updates, state,
        )

    if workers.is_one:
        return optax.GradientTransformationExtraArgs(
            inner.init, lambda u, s, params=None, **extra: update(u, s, params, extra)
        )

    def init_fn(params: Any) -> LocalState:
        return LocalState(inner=workers.varying(inner.init(params)))

    def update_fn(updates: Any, state: LocalState, params: Any = None, **extra: Any):
        updates, after = update(updates, state.inner, params, extra)
        return updates, LocalState(inner=workers.varying(after))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

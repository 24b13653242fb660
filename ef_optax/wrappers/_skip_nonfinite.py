"""Steps that are not finite are not taken, as if they had never been."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ef_optax._numerics import keep_if, varying_axes, zero_unless
from ef_optax.workers import AxisName, Workers, declares


class SkipNonfiniteState(NamedTuple):
    """The optimizer's state after the last step that was taken, and int32 counts.

    `consecutive` steps were skipped since then, `total` so far.
    """

    inner: Any
    consecutive: jax.Array
    total: jax.Array


def skip_nonfinite(
    tx: optax.GradientTransformation, axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    r"""Skips steps whose update is NaN or infinite; put it around an optimizer.

    .. math::
      (u, s) \leftarrow \begin{cases}
        (u', s') & \text{if all of } u' \text{ is finite},\\
        (0, s) & \text{otherwise,}
      \end{cases} \qquad (u', s') = \mathrm{tx}(g, s)

    Put it around a whole optimizer, with the exchange in it. A non-finite gradient on
    one worker gives all workers a NaN update, so that all decide alike. The state of
    `tx` is what it was, on all workers: also momenta before the exchange, counts of
    schedules and random keys, which moved where a worker's own gradient was finite.

    Use it in place of :func:`optax.apply_if_finite`, which looks at the gradients
    instead: each worker decides for itself whether to take part in a collective, and
    under :func:`jax.pmap` the first NaN of one worker makes all of them wait forever.

    **An update that did not cross** (no exchange in `tx`, or none for some leaves, as
    with :func:`optax.masked`) may be NaN on one worker only, which would then skip
    alone and drift apart: use :func:`ef_optax.exempt` instead of ``masked``. Where
    types tell (``check_vma=True``) it is refused, if `axis_name` is given.

    With :func:`ef_optax.accumulate` put this inside, so that `consecutive` counts the
    steps that `tx` took; around it, what was accumulated is dropped. Never put it
    around :class:`optax.MultiSteps`, which would be given its NaN back forever.

    Args:
      tx: a whole optimizer.
      axis_name: the mesh axis of the workers; needed only where further manual axes of
        the mesh split the parameters, over which the decision is then agreed.

    Returns:
      A transformation with :class:`SkipNonfiniteState`.

    Raises:
      TypeError: at init, if `tx` holds an :class:`optax.MultiSteps`.
      ValueError: at trace time, if the update varies over the axis.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.skip_nonfinite(ef_optax.signum(0.5))
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in ([1.0, -1.0], [jnp.nan, 3.0]):
      ...     updates, state = tx.update(jnp.array(g), state)
      ...     print(updates, state.total)
      [-0.5  0.5] 0
      [0. 0.] 1
    """
    workers = Workers(axis_name)
    tx = optax.with_extra_args_support(tx)

    def init_fn(params: Any) -> SkipNonfiniteState:
        inner = tx.init(params)
        _refuse_multi_steps(inner)
        # Two buffers, or donation would give the same one twice.
        return SkipNonfiniteState(
            inner, consecutive=jnp.zeros([], jnp.int32), total=jnp.zeros([], jnp.int32)
        )

    def update_fn(
        updates: Any, state: SkipNonfiniteState, params: Any = None, **extra: Any
    ):
        out, inner = tx.update(updates, state.inner, params, **extra)
        finite = workers.all_finite(out)
        _refuse_local(finite, workers)
        return zero_unless(finite, out), SkipNonfiniteState(
            inner=keep_if(finite, inner, _as_it_was(state.inner, inner)),
            consecutive=jnp.where(finite, 0, optax.safe_increment(state.consecutive)),
            total=jnp.where(finite, state.total, optax.safe_increment(state.total)),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _as_it_was(before: Any, after: Any) -> Any:
    """Returns a state before a step, except for fields that go on nevertheless."""

    def choose(old: Any, new: Any) -> Any:
        if not declares(old):
            return old
        return type(old)(*(
            n if field in getattr(old, "goes_on", ()) else _as_it_was(o, n)
            for field, o, n in zip(old._fields, old, new, strict=True)
        ))

    return jax.tree.map(choose, before, after, is_leaf=declares)


def _refuse_multi_steps(state: Any) -> None:
    def is_multi_steps(node: Any) -> bool:
        return isinstance(node, optax.MultiStepsState)

    if any(map(is_multi_steps, jax.tree.leaves(state, is_leaf=is_multi_steps))):
        raise TypeError(
            "skip_nonfinite around optax.MultiSteps would bring back the NaN that "
            "MultiSteps accumulated, forever. Use ef_optax.accumulate."
        )


def _refuse_local(finite: jax.Array, workers: Workers) -> None:
    """Refuses updates of which each worker has its own."""
    name = workers.axis_name
    own = {name} if isinstance(name, str) else set(name or ())
    if own & varying_axes(finite):
        raise ValueError(
            f"skip_nonfinite: the update varies over axis {name!r}: it did not cross, "
            "so the replicas would drift apart. Put skip_nonfinite around the whole "
            "optimizer, exchange included."
        )

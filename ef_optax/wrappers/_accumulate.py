"""Gradient accumulation that crosses the network on the last step only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ef_optax._checks import check_interval
from ef_optax._numerics import (
    cast_varying,
    concrete,
    leaf_dtype,
    varying_axes,
    wide,
    zero_unless,
)
from ef_optax.workers import AxisName, Workers


class AccumulateState(NamedTuple):
    """The sum of `mini_step` gradients of this worker, and state after `gradient_step`.

    The sum is a pytree like the parameters in at least float32; counts are int32.
    """

    acc_grads: Any
    inner: Any
    mini_step: jax.Array
    gradient_step: jax.Array


AccumulateState.per_worker = ("acc_grads",)  # type: ignore[attr-defined]
# A step that skip_nonfinite refuses must not bring back the gradients that caused it.
AccumulateState.goes_on = ("acc_grads", "mini_step")  # type: ignore[attr-defined]


def accumulate(
    tx: optax.GradientTransformation,
    every: int | Callable[[jax.Array], jax.typing.ArrayLike],
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Averages gradients over steps, and exchanges on the last of them only.

    .. math::
      \bar g_i \leftarrow \tfrac1k \sum_{t=1}^{k} g_{i,t}, \qquad
      u \leftarrow \begin{cases} \mathrm{tx}(\bar g_1, \dots, \bar g_M)
        & \text{at every } k\text{-th step}, \\ 0 & \text{otherwise} \end{cases}

    for worker :math:`i` of :math:`M`. The whole of `tx` stands in one branch of a
    :func:`jax.lax.cond`, its collectives and its state with it: learning-rate
    schedules, random keys and errors advance once in :math:`k` steps. Under
    :func:`jax.vmap` both branches are computed and one is selected.

    With one worker it does what :class:`optax.MultiSteps` does. That one runs `tx`,
    and the exchange in it, at every step, and does not tell that the gradients it
    keeps belong to one worker. Put :func:`ef_optax.accept_if_lower` inside and not
    around: an update of 0 lowers no loss.

    Args:
      tx: a whole optimizer, or what stands in its chain from the exchange on.
      every: :math:`k`, at least 1; or a function from the number of steps that `tx`
        took to it.
      axis_name: the mesh axis of the workers; None for one worker.

    Returns:
      A transformation with :class:`AccumulateState`. Gradients are summed in the dtype
      of the parameters, in float32 for 16-bit ones; `tx` sees the mean in the dtype of
      the gradients. A gradient that is not finite makes the mean so, and what `tx`
      makes of that is the update of the :math:`k`-th step. The next sum starts at 0.

    Raises:
      ValueError: if `every` is not an integer from 1 on; at trace time, if gradients
        are not floating point, or already summed over the axis.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.accumulate(ef_optax.ef_sign_sgd(0.5), every=2)
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in ([1.0, 6.0], [3.0, 2.0]):
      ...     updates, state = tx.update(jnp.array(g), state)
      ...     print(updates)
      [0. 0.]
      [-1.5 -1.5]
    """
    workers = Workers(axis_name)
    check_interval("every", every, 1)
    number = concrete(every)
    if number is not None and not number.is_integer():
        raise ValueError(f"every must be an integer; got {every!r}.")
    inner_tx = optax.with_extra_args_support(tx)

    def init_fn(params: Any) -> AccumulateState:
        def zeros(x: Any) -> jax.Array:
            return jnp.zeros_like(x, dtype=wide(leaf_dtype(x)))

        return AccumulateState(
            workers.varying(jax.tree.map(zeros, params)), inner_tx.init(params),
            mini_step=jnp.zeros([], jnp.int32), gradient_step=jnp.zeros([], jnp.int32),
        )

    def update_fn(
        updates: Any, state: AccumulateState, params: Any = None, **extra: Any
    ):
        updates = workers.own_updates("accumulate", updates, state.acc_grads)
        needed = every(state.gradient_step) if callable(every) else every
        count = optax.safe_increment(state.mini_step)
        total = jax.tree.map(
            lambda a, g: a + g.astype(a.dtype),
            workers.varying(state.acc_grads), workers.varying(updates),
        )

        def step(total: Any, inner: Any) -> Any:
            mean = jax.tree.map(
                lambda t, g: (t / count.astype(t.dtype)).astype(g.dtype), total, updates
            )
            return inner_tx.update(mean, inner, params, **extra)

        # What tx gives, without running it: also what it varies over, and its place on
        # a mesh.
        given = jax.eval_shape(step, total, state.inner)

        def wait(total: Any, inner: Any) -> Any:
            return jax.tree.map(jnp.zeros_like, given[0]), inner

        last = count >= needed
        out, inner = _cond(
            last, step, wait, (given, (given[0], state.inner)), total, state.inner
        )
        return out, AccumulateState(
            acc_grads=zero_unless(~last, total), inner=inner,
            mini_step=jnp.where(last, 0, count),
            gradient_step=jnp.where(
                last, optax.safe_increment(state.gradient_step), state.gradient_step
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _cond(
    condition: jax.Array, if_true: Callable[..., Any], if_false: Callable[..., Any],
    types: tuple[Any, Any], *operands: Any,
) -> Any:
    """Is lax.cond, also where one branch varies over more mesh axes than the other."""
    if not isinstance(condition, jax.core.Tracer):
        # Called without jit: lax.cond would compile both branches at every call.
        return if_true(*operands) if condition else if_false(*operands)
    axes = jax.tree.map(lambda x, y: varying_axes(x) | varying_axes(y), *types)

    def typed(branch: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: jax.tree.map(cast_varying, branch(*args), axes)

    return lax.cond(condition, typed(if_true), typed(if_false), *operands)

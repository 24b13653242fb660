"""Error feedback: what compression takes away today is sent later."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import (
    check_float_dtype,
    check_float_leaves,
    check_interval,
    check_rate,
    check_same_structure,
    check_state,
    float_arrays,
    leaf_dtype,
    warn,
)
from ef_optax._numerics import (
    cast_like,
    first_axis,
    keep_if,
    wide,
    without_axis,
    zero_unless,
)
from ef_optax.compressors import Compressor
from ef_optax.exchange import Exchange, Memory
from ef_optax.feedback._crossing import Crossing
from ef_optax.workers import AxisName, Workers, per_worker


@per_worker("error")
class ErrorFeedbackState(NamedTuple):
    """State of :func:`ef_optax.error_feedback`.

    Attributes:
      error: what was taken away so far, a pytree like the parameters; this worker's
        own.
      compressor: state of the compressor, the same on all workers.
      exchange: state of the exchange.
      count: the step, for a learning-rate schedule.
    """

    error: Any
    compressor: Any
    exchange: Any
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count


def error_feedback(
    compressor: Compressor | optax.GradientTransformation,
    *,
    axis_name: AxisName = None,
    exchange: Exchange | None = None,
    decay: jax.typing.ArrayLike = 1.0,
    accumulator_dtype: Any | None = None,
    learning_rate: optax.ScalarOrSchedule | None = None,
    allow_unvarying: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds what was not sent before, compresses, and keeps the rest.

    .. math::
      p_i &\leftarrow u_i + \beta\, e_i \\
      e_i &\leftarrow p_i - C(p_i) \\
      u &\leftarrow \frac1M \sum_{j=1}^M C(p_j)

    for worker :math:`i` of :math:`M`. Put it **after** the learning rate, as
    Algorithm 2 does: the error is then in units of the parameters, and with
    :math:`\beta = 1`, parameters plus the mean error follow the uncompressed updates
    exactly, whatever the schedule: :math:`x_t + \bar e_t = x_0 + \sum_s \bar u_s`.
    (Updates carry optax's minus sign, so this error is minus that of the paper.)

    **Before** the learning rate, pass it: with ``learning_rate=schedule`` the
    transformation takes gradients, and

    .. math::
      p_i &\leftarrow g_i + \beta\, e_i / \eta_t \\
      e_i &\leftarrow \eta_t\, (p_i - C(p_i)) \quad\text{if } \eta_t \ne 0

    which is :math:`p = g + (\eta_{t-1}/\eta_t)\,e` with the error kept in units of
    the parameters. A step at :math:`\eta_t = 0` applies nothing and keeps the error.
    Follow it with ``optax.scale_by_learning_rate(schedule)``. Both conventions agree
    where :math:`C(\eta x) = \eta C(x)`.

    An unbiased compressor of variance :math:`\omega` is used as :math:`C/(1+\omega)`,
    which contracts. A compressor for which no contraction is known, such as
    :func:`ef_optax.sign`, is accepted with a warning: its error may grow without
    bound.

    Args:
      compressor: a :class:`ef_optax.Compressor`; with one worker any optax
        transformation, such as ``optax.clip(0.1)``: what is clipped comes later.
      axis_name: the mesh axis of the workers, or a tuple of them; None for one worker.
      exchange: :func:`ef_optax.all_reduce`, :func:`ef_optax.gather` or
        :func:`ef_optax.two_way`; None takes the first for additive compressors and the
        second for others.
      decay: :math:`\beta` in [0, 1], how much of the error is kept at each step.
      accumulator_dtype: dtype of the error; None means that of the parameters, and
        float32 for 16-bit ones.
      learning_rate: the learning rate that is applied **after** this transformation,
        a number or a schedule; None if it was applied before.
      allow_unvarying: whether some gradients (not all) may be the same on all workers.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs` with
      :class:`ErrorFeedbackState`. If any worker's input is not finite, every worker's
      update is NaN, and errors and states stay as they were.

    Raises:
      TypeError: if `compressor` is a vote, a function, or cannot be sent; at trace
        time, if it exchanges itself, or if the state is not that of this init.
      ValueError: if `decay` is outside [0, 1], if messages cannot cross by
        `exchange`; at trace time, if leaves are not of a real floating-point dtype, if
        updates differ in structure from the parameters at init, or if gradients are
        already summed over the axis.
      NameError: at trace time, if the axis is not bound.

    Examples:
      >>> import jax.numpy as jnp, optax, ef_optax
      >>> tx = optax.chain(
      ...     optax.scale_by_learning_rate(0.1),
      ...     ef_optax.error_feedback(ef_optax.top_k(k=1)),
      ... )
      >>> params = jnp.array([1.0, 1.0])
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.array([3.0, 2.0]), state, params)
      ...     print(updates)
      [-0.3  0. ]
      [ 0.  -0.4]

    References:
      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient Compression
      Schemes <https://arxiv.org/abs/1901.09847>`_, 2019, Algorithms 1 and 2, Remark 5

      Zheng et al., `Communication-Efficient Distributed Blockwise Momentum SGD with
      Error-Feedback <https://arxiv.org/abs/1905.10936>`_, 2019 (the second convention)
    """
    workers = Workers(axis_name)
    check_interval("decay", decay, 0.0, 1.0)
    if learning_rate is not None:
        check_rate(learning_rate)
    if accumulator_dtype is not None:
        accumulator_dtype = check_float_dtype("accumulator_dtype", accumulator_dtype)
    crossing = Crossing(
        "error_feedback",
        compressor.contractive if isinstance(compressor, Compressor) else compressor,
        workers,
        exchange,
    )
    if isinstance(compressor, Compressor) and not compressor.contracts:
        warn(
            f"No contraction is known for {compressor!r}: under error feedback its "
            "error may grow without bound. scaled_sign() and top_k() contract; a "
            "compressor of your own says so by contraction=."
        )

    def dtype_of(x: Any) -> Any:
        return wide(leaf_dtype(x)) if accumulator_dtype is None else accumulator_dtype

    def init_fn(params: Any) -> ErrorFeedbackState:
        check_float_leaves("error_feedback", params)
        error = jax.tree.map(lambda x: jnp.zeros_like(x, dtype=dtype_of(x)), params)
        compressor_state, exchange_state = crossing.init(params, error)
        return ErrorFeedbackState(
            error=workers.varying(error),
            compressor=compressor_state,
            exchange=exchange_state,
            count=jnp.zeros([], jnp.int32),
        )

    def one_worker(memory: Memory, updates: Any, state: Any, params: Any, extra: Any):
        # Of the corrected update: a sum that overflows would destroy the error.
        finite = workers.all_finite(memory.corrected(updates, state.error))
        p = memory.corrected(zero_unless(finite, updates), state.error)
        out = crossing.apply(
            p, finite, state.compressor, state.exchange, params, extra, memory
        )
        kept = memory.kept(p, state.error)
        error = memory.residual(p, out.own, state.error)
        return memory.applied(out.mean), keep_if(finite, error, kept), out

    def many_workers(memory: Memory, updates: Any, state: Any, params: Any, extra: Any):
        # With an axis of one in front, as arrays have that a mesh split worker by
        # worker: XLA writes in place only where it need not reshape in between.
        old = first_axis(state.error)
        p = memory.corrected(first_axis(updates), old)
        finite = workers.all_finite(p)
        out = crossing.apply(
            without_axis(p), finite, state.compressor, state.exchange, params, extra,
            memory,
        )
        error = memory.residual(p, first_axis(out.own), old)
        error = without_axis(keep_if(out.finite, error, old))
        return memory.applied(out.mean), error, out

    def update_fn(
        updates: Any, state: ErrorFeedbackState, params: Any = None, **extra: Any
    ):
        workers.check_bound()
        check_state("error_feedback", state, ErrorFeedbackState)
        updates = float_arrays("error_feedback", updates)
        check_same_structure("error_feedback", updates, state.error)
        if isinstance(compressor, Compressor):
            workers.check_crossing("error_feedback", updates)
        workers.refuse_summed("error_feedback", updates, allow_unvarying)
        memory = Memory(
            decay,
            learning_rate(state.count) if callable(learning_rate) else learning_rate,
        )
        step = one_worker if crossing.exchange is None else many_workers
        applied, error, out = step(memory, updates, state, params, extra)
        return cast_like(applied, updates), ErrorFeedbackState(
            error=error,
            compressor=out.compressor_state,
            exchange=out.state,
            # Counts every step, as the schedule of the learning rate itself does.
            count=optax.safe_increment(state.count),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

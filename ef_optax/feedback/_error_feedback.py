"""Error feedback: what compression takes away today is sent later."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ef_optax import _cpu
from ef_optax._checks import check_interval, warn
from ef_optax._numerics import (
    cast_like,
    concrete,
    keep_if,
    leaf_dtype,
    nan_unless,
    wide,
    within,
    zero_unless,
)
from ef_optax.compressors import Compressor, compressor_of
from ef_optax.exchange import Exchange, Exchanged, all_reduce, gather
from ef_optax.feedback._exempt import Exempt, exempt
from ef_optax.workers import AxisName, Workers


class ErrorFeedbackState(NamedTuple):
    """State of :func:`ef_optax.error_feedback`.

    Attributes:
      error: what was not sent so far, a pytree like the parameters; this worker's own.
      compressor: state of the compressor, the same on all workers.
      exchange: state of the exchange.
      count: the step, for a learning-rate schedule.
    """

    error: Any
    compressor: Any
    exchange: Any
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count


ErrorFeedbackState.per_worker = ("error",)  # type: ignore[attr-defined]


def error_feedback(
    compressor: Compressor | Exempt | optax.GradientTransformation,
    *,
    axis_name: AxisName = None,
    exchange: Exchange | None = None,
    decay: jax.typing.ArrayLike = 1.0,
    accumulator_dtype: Any | None = None,
    learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Compresses updates, and adds the compression error to the next one.

    Use it to send a few bits a coordinate and converge as without compression.

    .. math::
      p_i &\leftarrow u_i + \beta\, e_i \\
      e_i &\leftarrow p_i - C(p_i) \\
      u &\leftarrow \frac1M \sum_{j=1}^M C(p_j)

    for worker :math:`i` of :math:`M`. Put it **after** the learning rate, as Algorithm
    2 does: the error is then in units of the parameters, and with :math:`\beta = 1`
    parameters plus the mean error follow the uncompressed updates, whatever the
    schedule: :math:`x_t + \bar e_t = x_0 + \sum_s \bar u_s`, as float32 rounds.
    (Updates carry optax's minus sign, so this error is minus that of the paper.)
    Parameters of 16 bits round every update when it is applied, which error feedback
    does not see: the sum was off by 5e-4 after 1,000 steps in bfloat16.

    **Before** the learning rate, pass it: with ``learning_rate=schedule`` it takes
    gradients, and

    .. math::
      p_i &\leftarrow g_i + \beta\, e_i / \eta_t \\
      e_i &\leftarrow \eta_t\, (p_i - C(p_i)) \quad\text{if } \eta_t \ne 0

    The error stays in units of the parameters. A step at :math:`\eta_t = 0` applies
    nothing and keeps it. Follow it with ``optax.scale_by_learning_rate(schedule)``.
    Both conventions agree where :math:`C(\eta x) = \eta C(x)`.

    If any worker's input is not finite, every worker's update is NaN, and errors and
    states stay as they were. So large a number that a sum over its leaf and the workers
    could overflow counts as not finite. An error beyond the largest number of its dtype
    stays at that number.

    An unbiased compressor of variance :math:`\omega` is used as :math:`C/(1+\omega)`,
    which contracts. A compressor for which no contraction is known, such as
    :func:`ef_optax.sign`, is accepted with a warning: its error may grow without bound.

    Args:
      compressor: a :class:`ef_optax.Compressor`, or one with :func:`ef_optax.exempt`
        leaves; with one worker any optax transformation, such as ``optax.clip(0.1)``:
        what is clipped comes later.
      axis_name: the mesh axis of the workers, or a tuple of them; None for one worker.
      exchange: :func:`ef_optax.all_reduce`, :func:`ef_optax.gather` or
        :func:`ef_optax.two_way`; None takes the first for additive compressors and the
        second for others.
      decay: :math:`\beta` in [0, 1], how much of the error is kept at each step.
      accumulator_dtype: dtype of the error; None means that of the parameters, and
        float32 for 16-bit ones.
      learning_rate: the learning rate that is applied **after** this transformation,
        a number or a schedule; None if it was applied before.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs` with :class:`ErrorFeedbackState`.

    Raises:
      TypeError: if there is an axis and `compressor` is none; at trace time, if it
        holds an exchange itself.
      ValueError: if `decay` is outside [0, 1] or `accumulator_dtype` is no float; at
        init, if `exchange` cannot send the messages; at trace time, if leaves are no
        real floats or have other shapes than at init, or if gradients are already
        summed over the axis.
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
    if isinstance(compressor, Exempt):
        rest = error_feedback(
            compressor.compressor, axis_name=axis_name, exchange=exchange, decay=decay,
            accumulator_dtype=accumulator_dtype, learning_rate=learning_rate,
        )
        return exempt(rest, compressor.mask, axis_name)
    workers = Workers(axis_name)
    check_interval("decay", decay, 0.0, 1.0)
    if accumulator_dtype is not None:
        jnp.finfo(accumulator_dtype)  # refuses integers
    tx = _contractive(compressor, workers)
    way = exchange_of(compressor_of(tx), exchange, workers)

    def init_fn(params: Any) -> ErrorFeedbackState:
        error = jax.tree.map(
            lambda x: jnp.zeros_like(
                x, dtype=accumulator_dtype or wide(leaf_dtype(x))
            ), params
        )
        return ErrorFeedbackState(
            error=workers.varying(error),
            compressor=tx.init(params),
            exchange=way.init(compressor_of(tx), params, workers, error),
            count=jnp.zeros([], jnp.int32),
        )

    def update_fn(
        updates: Any, state: ErrorFeedbackState, params: Any = None, **extra: Any
    ):
        updates = workers.own_updates("error_feedback", updates, state.error)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        memory = Memory(decay, rate)
        # Lines 5 to 7 of Algorithm 2: p = u + e, C(p), and e = p - C(p).
        p = memory.corrected(updates, state.error)
        finite = workers.all_summable(p)
        if workers.is_one:
            # LAPACK's SVD, in another's transformation, never ends on an infinity.
            updates = zero_unless(finite, updates)
            p = memory.corrected(updates, state.error)
        c = tx if isinstance(tx, Compressor) else compressor_of(tx, params, extra)
        out = way.apply(
            c, p, finite, state.compressor, state.exchange, workers, memory
        )
        applied = nan_unless(out.finite, memory.applied(out.mean))
        return cast_like(applied, updates), ErrorFeedbackState(
            error=memory.residual(
                out.finite, updates, state.error, out.own, zeroed=workers.is_one
            ),
            compressor=keep_if(out.finite, out.compressor_state, state.compressor),
            exchange=out.state,
            # Counts every step, as the schedule of the learning rate itself does.
            count=optax.safe_increment(state.count),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@dataclasses.dataclass(frozen=True)
class Memory:
    r"""The arithmetic of an error, of a worker or of what serves its shard.

    Attributes:
      decay: :math:`\beta`, how much of the error is kept.
      rate: :math:`\eta_t`, the learning rate that is applied later; None if it was
        applied before. The error is in units of the parameters all the same.
    """

    decay: jax.typing.ArrayLike = 1.0
    rate: jax.typing.ArrayLike | None = None

    def corrected(self, updates: Any, error: Any) -> Any:
        r"""Returns :math:`p = u + \beta e`, or :math:`u + \beta e / \eta`."""

        def add(u: jax.Array, e: jax.Array) -> jax.Array:
            u, e = self._terms(u, e)
            if self.rate is not None:
                eta = jnp.asarray(self.rate, e.dtype)
                # After a far larger rate the quotient may overflow. The residual is
                # not made from it, so that nothing is lost.
                most = float(jnp.finfo(e.dtype).max) ** 0.25
                e = jnp.clip(e / jnp.where(eta == 0, 1, eta), -most, most)
                e = jnp.where(eta == 0, 0, e)
            return u + e

        return _cpu.in_place(add, updates, error)

    def residual(
        self, taken: jax.Array, updates: Any, error: Any, own: Any, zeroed: bool = False
    ) -> Any:
        r"""Returns the next error: what came in and was not sent.

        It is :math:`u + \beta e - c`, or :math:`\eta u + \beta e - \eta c`; the error
        as it was in a step that is not taken, or at a learning rate of 0.

        Args:
          taken: whether the step is taken.
          updates: u.
          error: e.
          own: c, what this worker's message decoded to.
          zeroed: whether `updates` are 0 in a step that is not taken.
        """
        if self.rate is not None:
            taken = taken & (jnp.asarray(self.rate) != 0)

        def rest(u: jax.Array, old: jax.Array, c: jax.Array) -> jax.Array:
            u, e = self._terms(u, old)
            c = c.astype(e.dtype)
            if self.rate is not None:
                eta = jnp.asarray(self.rate, e.dtype)
                u, c = eta * u, eta * c
            left = u + e - c
            if jnp.finfo(old.dtype).max < jnp.finfo(left.dtype).max:
                # An infinity, once in the error, would never leave it.
                left = within(left, old.dtype)
            if zeroed and concrete(self.decay) == 1.0:
                return jnp.where(taken, left, u + e).astype(old.dtype)  # see _cpu
            return jnp.where(taken, left.astype(old.dtype), old)

        return _cpu.in_place(rest, updates, error, own)

    def applied(self, mean: Any) -> Any:
        """Returns what is applied: nothing at a learning rate of 0."""
        if self.rate is None:
            return mean
        off = jnp.asarray(self.rate) == 0
        return jax.tree.map(lambda x: jnp.where(off, jnp.zeros_like(x), x), mean)

    def _terms(self, u: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        r"""Returns u and :math:`\beta e`, in the larger of their dtypes."""
        dtype = jnp.promote_types(wide(u.dtype), e.dtype)
        u, e = u.astype(dtype), e.astype(dtype)
        if concrete(self.decay) == 1.0:
            return u, e
        return u, jnp.asarray(self.decay, dtype) * e


def exchange_of(
    compressor: Compressor, exchange: Exchange | None, workers: Workers
) -> Exchange:
    """Returns the exchange that was asked for, or the usual one of a compressor."""
    if exchange is not None:
        return exchange
    if workers.is_one:
        return _nothing_sent()
    return all_reduce() if compressor.additive else gather()


def _nothing_sent() -> Exchange:
    """Returns the exchange of one worker, whose own message is the update."""

    def apply(
        compressor: Compressor, updates: Any, finite: jax.Array, compressor_state: Any,
        state: Any, workers: Workers, memory: Memory | None,
    ) -> Exchanged:
        del workers, memory
        own, compressor_state = compressor.roundtrip(updates, compressor_state)
        return Exchanged(own, own, finite, compressor_state, state)

    return Exchange("nothing sent", lambda *_: optax.EmptyState(), apply)


def _contractive(compressor: Any, workers: Workers) -> optax.GradientTransformation:
    """Returns what is used of a compressor, and warns if its error may grow."""
    if isinstance(compressor, Compressor):
        if not compressor.contracts:
            warn(
                f"No contraction is known for {compressor!r}: under error feedback its "
                "error may grow without bound. scaled_sign() and top_k() contract; a "
                "compressor of your own says so by contraction=."
            )
        return compressor.contractive
    if not workers.is_one:
        raise TypeError(
            f"error_feedback(axis_name={workers.axis_name!r}) needs a compressor, such "
            f"as scaled_sign(), which says what its message is; got {compressor!r}. "
            "Chain other transformations before it; identity() sends everything."
        )
    return compressor

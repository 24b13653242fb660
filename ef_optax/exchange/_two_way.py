"""Messages of shards: to the worker that owns one, and its answer to all."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ef_optax._checks import (
    check_state,
    check_static_int,
    describe_leaves,
    leaf_dtype,
    named_leaves,
    shown,
    size_of,
    warn,
)
from ef_optax._keys import KeyState
from ef_optax._numerics import first_axis, flag_of, keep_if, without_axis, zero_unless
from ef_optax.compressors import Compressor
from ef_optax.exchange._base import Exchange, Exchanged
from ef_optax.exchange._memory import Memory
from ef_optax.exchange._rows import from_rows, paddings, row_length, to_rows
from ef_optax.workers import Workers, per_worker

# Folded into the keys of the server.
_SERVER = 0x7FFFFFFF


@per_worker("error", padding="padding")
class TwoWayState(NamedTuple):
    """State of the worker as the server of its shards.

    Attributes:
      error: of every leaf the shard that this worker serves, a vector, what was not
        answered yet; None if nothing is kept.
      compressor: state of the server's compressor, the same on all workers.
      padding: of every leaf by how many numbers all shards exceed it, int32.
    """

    error: Any
    compressor: Any
    padding: jax.Array


def two_way(
    compressor: Compressor | None = None, *, workers: int | None = None
) -> Exchange:
    r"""Every worker serves one shard: it averages messages and answers compressed.

    .. math::
      q^{(j)} &\leftarrow \tfrac1M \sum_{i=1}^M C(p_i^{(j)}) + s^{(j)} \\
      \bar u^{(j)} &\leftarrow C'(q^{(j)}) \\
      s^{(j)} &\leftarrow q^{(j)} - \bar u^{(j)}

    for the shard :math:`j` of every leaf, on worker :math:`j`: one
    :func:`jax.lax.all_to_all` of messages there, one :func:`jax.lax.all_gather` back.
    Each worker sends :math:`2 (M-1)/M` times the bytes of one message, however many
    workers there are, where :func:`ef_optax.gather` sends :math:`M - 1` times.

    Each leaf is flattened and cut into :math:`M` rows of equal length (with zeros at
    the end of the last), and each row is compressed alone: a scale is that of a row,
    and `k` counts the entries of a row. The server draws random numbers of its own; a
    mask that all share, :func:`ef_optax.random_k`, is better by
    :func:`ef_optax.all_reduce`, which has one mask for both ways. Under
    :func:`ef_optax.error_feedback` both lossy steps have a memory; under
    :func:`ef_optax.compress` neither has.

    Args:
      compressor: the server's :math:`C'`; None takes that of the workers.
      workers: the number of workers, where ``init`` is called without the axis bound
        (inside :func:`ef_optax.over_workers` it is bound).

    Returns:
      An exchange for :func:`ef_optax.error_feedback` and :func:`ef_optax.compress`.

    Raises:
      TypeError: if `compressor` is not one.
      ValueError: if a compressor cannot encode shards; at init, if the number of
        workers is unknown; at trace time, if the state was made for another number.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.error_feedback(
      ...     ef_optax.scaled_sign(), axis_name="workers",
      ...     exchange=ef_optax.two_way())
      >>> def step(g):
      ...     return tx.update(g, tx.init(g))[0]
      >>> grads = jnp.array([[1.0, -3.0], [4.0, 4.0]])  # of two workers
      >>> print(jax.vmap(step, axis_name="workers")(grads))
      [[2.5 0.5]
       [2.5 0.5]]

    References:
      Zheng et al., `Communication-Efficient Distributed Blockwise Momentum SGD with
      Error-Feedback <https://arxiv.org/abs/1905.10936>`_, 2019, Algorithm 2, with
      every worker as the server of one shard
    """
    if compressor is not None and not isinstance(compressor, Compressor):
        raise TypeError(
            f"two_way needs a compressor, such as scaled_sign(), or None; got "
            f"{shown(compressor)}. The number of workers is workers=..."
        )
    if workers is not None:
        workers = check_static_int("workers", workers, 1)
    name = "two_way()" if compressor is None else f"two_way({compressor!r})"

    def check(of_workers: Compressor) -> None:
        for each in (of_workers, compressor or of_workers):
            if not each.splittable or each.after_exchange is not None:
                raise ValueError(
                    f"{each!r} cannot encode shards of a leaf, which two_way() sends. "
                    f"Use exchange={'all_reduce' if each.additive else 'gather'}()."
                )

    def served_by(of_workers: Compressor, keeps: bool) -> Compressor:
        server = compressor or of_workers
        return server.contractive if keeps else server

    def size_at_init(axis: Workers) -> int:
        if axis.is_bound:
            if workers is not None and workers != axis.size:
                raise ValueError(
                    f"two_way(workers={workers}), but axis {axis.axis_name!r} has "
                    f"{axis.size}: give workers={axis.size}, or leave it out where "
                    "init is called with the axis bound."
                )
            return axis.size
        if workers is None:
            raise ValueError(
                "two_way() cuts leaves into one shard for each worker, so its state "
                "depends on their number: call init where axis "
                f"{axis.axis_name!r} is bound (ef_optax.over_workers does), or give "
                "two_way(workers=...)."
            )
        return workers

    def init(of_workers: Compressor, params: Any, axis: Workers, error: Any) -> Any:
        size = size_at_init(axis)
        server = served_by(of_workers, error is not None)
        if compressor is not None and error is not None and not compressor.contracts:
            warn(
                f"No contraction is known for {compressor!r}: under error feedback "
                "the server's error may grow without bound. scaled_sign() and top_k() "
                "contract."
            )
        rows = jax.tree.map(
            lambda x: jnp.zeros((row_length(size_of(x), size),), leaf_dtype(x)),
            params if error is None else error,
        )
        return TwoWayState(
            error=None if error is None else axis.varying(rows),
            compressor=_own_keys(server.init(rows)),
            padding=jnp.array(np.array(paddings(params, size), np.int32)),
        )

    def apply(
        of_workers: Compressor,
        updates: Any,
        finite: jax.Array,
        compressor_state: Any,
        state: TwoWayState,
        axis: Workers,
        memory: Memory | None,
    ) -> Exchanged:
        size = axis.size
        check_state("two_way()", state, TwoWayState)
        rows = to_rows(updates, size)
        if memory is not None:
            _check_shards(rows, state.error, size)

        def encode(row: Any, index: Any) -> Any:
            return of_workers.encode(row, compressor_state, _Row(axis, index))

        message, shared, new_state = jax.vmap(encode, out_axes=(0, None, None))(
            rows, jnp.arange(size)
        )
        own = jax.vmap(lambda m: of_workers.decode(m, shared), axis_size=size)(message)
        flags = jnp.broadcast_to(flag_of(finite, jnp.uint8), (size,))
        received, flags = axis.all_to_all((message, flags))

        # From here on as the server of one shard. Every worker has all flags, so all
        # decide alike.
        finite = jnp.all(flags == 0)
        total = of_workers.decode_sum(received, shared)
        shard = jax.tree.map(lambda x: x / size, total)
        server = served_by(of_workers, memory is not None)
        if memory is not None:
            # The axis in front: see error_feedback.
            old = first_axis(state.error)
            shard = memory.corrected(first_axis(zero_unless(finite, shard)), old)
            # An infinity, once in the error, would never leave it.
            shard = jax.tree.map(_within, shard)
        to_send = shard if memory is None else without_axis(shard)
        answer, answer_shared, server_state = server.encode(
            to_send, state.compressor, axis
        )
        error = state.error
        if memory is not None:
            sent = first_axis(server.decode(answer, answer_shared))
            error = without_axis(keep_if(
                finite, memory.residual(shard, sent, old), memory.kept(shard, old)
            ))

        # The flags cross again, so that what all know is also typed the same for all.
        answers, flags = axis.all_gather((answer, jnp.max(flags)))
        finite = jnp.all(flags == 0)
        mean = jax.vmap(
            lambda m: server.decode(m, answer_shared), axis_size=size
        )(answers)
        return Exchanged(
            own=from_rows(own, updates),
            mean=from_rows(mean, updates),
            finite=finite,
            compressor_state=new_state,
            state=TwoWayState(
                error, keep_if(finite, server_state, state.compressor), state.padding
            ),
        )

    return Exchange(name, init, apply, check)


def _within(x: jax.Array) -> jax.Array:
    """Returns x, where it overflowed the largest number of its sign."""
    # By selection: XLA writes it in place, which it does not for a clamp.
    largest = jnp.copysign(jnp.finfo(x.dtype).max, x)
    return jnp.where(jnp.isinf(x), largest, x)


def _own_keys(state: Any) -> Any:
    """Returns the server's state with other keys than the workers'."""
    # They may have been given the same one; what they drew must not come twice.

    def fold(node: Any) -> Any:
        if not isinstance(node, KeyState):
            return node
        return node._replace(key=jax.random.fold_in(node.key, _SERVER))

    return jax.tree.map(fold, state, is_leaf=lambda node: isinstance(node, KeyState))


class _Row(Workers):
    """The workers, as seen where one row of a leaf is encoded."""

    def __init__(self, workers: Workers, row: Any):
        super().__init__(workers.axis_name)
        self._row = row

    @property
    def index(self) -> Any:
        """An index for each row of each worker, so that each draws its own noise."""
        return super().index * self.size + self._row


def _check_shards(rows: Any, error: Any, size: int) -> None:
    """Refuses a state that was made for another number of workers."""
    wrong = [
        f"{path}: {jnp.shape(e)} instead of {row.shape[1:]}"
        for (path, row), e in zip(
            named_leaves(rows), jax.tree.leaves(error), strict=True
        )
        if jnp.shape(e) != row.shape[1:]
    ]
    if wrong:
        raise ValueError(
            f"The state of two_way() was made for another number of workers than the "
            f"{size} here: {describe_leaves(wrong)}. Convert it with "
            f"ef_optax.resize_workers(state, {size}), or make a new one with init."
        )

"""Messages of shards: to the worker that serves one, and its answer to all."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ef_optax._checks import check_count, check_state, describe, named_leaves, warn
from ef_optax._keys import KeyState
from ef_optax._numerics import (
    flag_of,
    keep_if,
    leaf_dtype,
    size_of,
    zero_unless,
)
from ef_optax.compressors import Compressor
from ef_optax.exchange._base import Exchange, Exchanged
from ef_optax.workers import Workers

# Folded into the keys of the server.
_SERVER = 0x7FFFFFFF


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


TwoWayState.per_worker = ("error",)  # type: ignore[attr-defined]
TwoWayState.padding_field = "padding"  # type: ignore[attr-defined]


def two_way(
    compressor: Compressor | None = None, *, workers: int | None = None
) -> Exchange:
    r"""Averages by compressed messages both ways; use it from four workers on.

    .. math::
      q^{(j)} &\leftarrow \tfrac1M \sum_{i=1}^M C(p_i^{(j)}) + s^{(j)} \\
      \bar u^{(j)} &\leftarrow C'(q^{(j)}) \\
      s^{(j)} &\leftarrow q^{(j)} - \bar u^{(j)}

    Worker :math:`j` averages the shard :math:`j` of every leaf and answers with a
    compressed mean: one :func:`jax.lax.all_to_all` of messages there, one
    :func:`jax.lax.all_gather` back.
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
      ValueError: at init, if a compressor cannot encode shards or the number of workers
        is unknown; at trace time, if the state was made for another number.

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
    if workers is not None:
        workers = check_count("workers", workers)

    def init(of_workers: Compressor, params: Any, axis: Workers, error: Any) -> Any:
        for each in (of_workers, compressor or of_workers):
            if not each.splittable:
                raise ValueError(
                    f"{each!r} cannot encode shards of a leaf, which two_way() sends. "
                    f"Use exchange={'all_reduce' if each.additive else 'gather'}()."
                )
        size = _size_at_init(axis, workers)
        server = _server(compressor or of_workers, error)
        # Of the workers' own compressor error_feedback has said it already.
        if compressor is not None and error is not None and not compressor.contracts:
            warn(
                f"No contraction is known for {compressor!r}: under error feedback the "
                "server's error may grow without bound. scaled_sign() and top_k() "
                "contract."
            )
        like = params if error is None else error
        rows = jax.tree.map(
            lambda x: jnp.zeros((-(-size_of(x) // size),), leaf_dtype(x)), like
        )
        padding = [
            size * row.size - size_of(x)
            for row, x in zip(jax.tree.leaves(rows), jax.tree.leaves(like), strict=True)
        ]
        return TwoWayState(
            error=None if error is None else axis.varying(rows),
            compressor=_own_keys(server.init(rows)),
            padding=jnp.array(np.array(padding, np.int32)),
        )

    def apply(
        of_workers: Compressor, updates: Any, finite: jax.Array, compressor_state: Any,
        state: TwoWayState, axis: Workers, memory: Any,
    ) -> Exchanged:
        check_state("two_way()", state, TwoWayState)
        size = axis.size
        rows = _to_rows(updates, size)
        if memory is not None:
            _check_shards(rows, state.error, size)

        def encode(row: Any, number: Any) -> Any:
            return of_workers.encode(row, compressor_state, axis.shard(number))

        message, shared, compressor_state = jax.vmap(encode, out_axes=(0, None, None))(
            rows, jnp.arange(size)
        )
        own = jax.vmap(lambda m: of_workers.decode(m, shared), axis_size=size)(message)
        flags = jnp.broadcast_to(flag_of(finite, jnp.uint8), (size,))
        received, flags = axis.all_to_all((message, flags))

        # From here on as the server of one shard. Every worker has all flags, so all
        # decide alike.
        server, finite = _server(compressor or of_workers, memory), jnp.all(flags == 0)
        total = of_workers.decode_sum(received, shared)
        shard = zero_unless(finite, jax.tree.map(lambda x: x / size, total))
        corrected = memory.corrected(shard, state.error) if memory else shard
        answer, answer_shared, server_state = server.encode(
            corrected, state.compressor, axis
        )
        error = state.error
        if memory is not None:
            sent = server.decode(answer, answer_shared)
            error = memory.residual(finite, shard, state.error, sent, zeroed=True)

        # The flags are sent again, so that what all know is typed the same for all.
        answers, flags = axis.all_gather((answer, jnp.max(flags)))
        finite = jnp.all(flags == 0)
        mean = jax.vmap(
            lambda m: server.decode(m, answer_shared), axis_size=size
        )(answers)
        server_state = keep_if(finite, server_state, state.compressor)
        return Exchanged(
            own=_from_rows(own, updates),
            mean=_from_rows(mean, updates),
            finite=finite,
            compressor_state=compressor_state,
            state=TwoWayState(error, server_state, state.padding),
        )

    name = "two_way()" if compressor is None else f"two_way({compressor!r})"
    return Exchange(name, init, apply)


def _server(compressor: Compressor, memory: Any) -> Compressor:
    """Returns what the server uses, if it keeps an error and if there is none."""
    return compressor if memory is None else compressor.contractive


def _size_at_init(axis: Workers, workers: int | None) -> int:
    """Returns the number of workers, as it is bound or was given."""
    if axis.is_bound:
        return axis.size
    if workers is None:
        raise ValueError(
            "two_way() makes one shard for each worker, so its state depends on their "
            f"number: call init where axis {axis.axis_name!r} is bound "
            "(ef_optax.over_workers does), or give two_way(workers=...)."
        )
    return workers


def _own_keys(state: Any) -> Any:
    """Returns the server's state with other keys than the workers'."""
    # They may have been given the same one; what they drew must not come twice.

    def fold(node: Any) -> Any:
        if not isinstance(node, KeyState):
            return node
        return node._replace(key=jax.random.fold_in(node.key, _SERVER))

    return jax.tree.map(fold, state, is_leaf=lambda node: isinstance(node, KeyState))


def _to_rows(tree: Any, size: int) -> Any:
    """Returns every leaf flattened as [size, length], with zeros at the end."""
    return jax.tree.map(
        lambda x: jnp.pad(x.reshape(-1), (0, -x.size % size)).reshape(size, -1)
        if x.size else jnp.zeros_like(x, shape=(size, 0)), tree
    )


def _from_rows(tree: Any, like: Any) -> Any:
    """Returns rows as leaves again, in the shapes of `like`."""
    return jax.tree.map(
        lambda x, y: x.reshape(-1)[:y.size].reshape(y.shape), tree, like
    )


def _check_shards(rows: Any, error: Any, size: int) -> None:
    """Refuses a state that was made for another number of workers."""
    wrong = [
        f"{path}: {jnp.shape(e)} for {row.shape[1:]}"
        for (path, row), e in zip(
            named_leaves(rows), jax.tree.leaves(error), strict=True
        )
        if jnp.shape(e) != row.shape[1:]
    ]
    if wrong:
        raise ValueError(
            f"The state of two_way() was made for another number of workers than the "
            f"{size} here: {describe(wrong)}. Convert it with "
            f"ef_optax.resize_workers(state, {size}), or make a new one with init."
        )

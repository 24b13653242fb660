"""Messages that go to all workers at once: summed on the way, or every one of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import check_state
from ef_optax._numerics import flag_of
from ef_optax.compressors import Compressor
from ef_optax.exchange._base import Exchange, Exchanged
from ef_optax.workers import Workers


def all_reduce() -> Exchange:
    r"""Sums additive messages by one ``psum``; the default of compressors that add.

    .. math::
      \bar u = \tfrac1M\, \mathrm{decode}\Big(\sum_{i=1}^M m_i\Big)

    by one :func:`jax.lax.psum` for the whole tree. A ring sends :math:`2 (M-1)/M` times
    the bytes of one message from every worker.

    Returns:
      An exchange for :func:`ef_optax.error_feedback` and :func:`ef_optax.compress`.
      Its init refuses a compressor whose messages do not add, with a ValueError.

    Examples:
      >>> import ef_optax
      >>> tx = ef_optax.error_feedback(
      ...     ef_optax.random_k(fraction=0.01), axis_name="workers",
      ...     exchange=ef_optax.all_reduce())
    """

    def refuse(compressor: Compressor) -> None:
        if not compressor.additive:
            two_way = "exchange=two_way() or " if compressor.splittable else ""
            raise ValueError(
                f"all_reduce() sums messages, and those of {compressor!r} do not add "
                f"(or are too narrow to hold a sum). Use {two_way}exchange=gather()."
            )

    def send(
        compressor: Compressor, message: Any, shared: Any, finite: jax.Array,
        workers: Workers,
    ) -> tuple[Any, jax.Array]:
        # The flag has the dtype of a leaf, so that it is sent in that leaf's buffer.
        dtype = next((m.dtype for m in jax.tree.leaves(message)), jnp.int8)
        total, flags = workers.sum((message, flag_of(finite, dtype)))
        return compressor.decode(total, shared), flags == 0

    return _one_way("all_reduce()", refuse, send)


def gather() -> Exchange:
    r"""Sends every message to all workers; the default of messages that do not add.

    .. math::
      \bar u = \tfrac1M \sum_{i=1}^M \mathrm{decode}(m_i)

    by one :func:`jax.lax.all_gather` for the whole tree: all arrays of a message are
    the bytes of one buffer. Every worker sends it :math:`M - 1` times and decodes all
    of them. From four workers on :func:`ef_optax.two_way` sends less.

    Returns:
      An exchange for :func:`ef_optax.error_feedback` and :func:`ef_optax.compress`.

    Examples:
      >>> import ef_optax
      >>> tx = ef_optax.error_feedback(
      ...     ef_optax.scaled_sign(), axis_name="workers", exchange=ef_optax.gather())
    """

    def send(
        compressor: Compressor, message: Any, shared: Any, finite: jax.Array,
        workers: Workers,
    ) -> tuple[Any, jax.Array]:
        messages, flags = workers.all_gather((message, flag_of(finite, jnp.uint8)))
        return compressor.decode_sum(messages, shared), jnp.all(flags == 0)

    return _one_way("gather()", lambda compressor: None, send)


def _one_way(
    name: str,
    refuse: Callable[[Compressor], None],
    send: Callable[..., tuple[Any, jax.Array]],
) -> Exchange:
    """Returns the exchange in which a message is sent once, and nothing is kept of it.

    Args:
      name: how it is called in messages.
      refuse: raises if a compressor's messages cannot be sent so.
      send: ``(compressor, message, shared, finite, workers) -> (sum of what the
        messages of all workers decode to, whether all inputs were finite)``.
    """

    def init(compressor: Compressor, *_: Any) -> optax.EmptyState:
        refuse(compressor)
        return optax.EmptyState()

    def apply(
        compressor: Compressor, updates: Any, finite: jax.Array, compressor_state: Any,
        state: Any, workers: Workers, memory: Any,
    ) -> Exchanged:
        del memory  # nothing is kept but by the workers themselves
        check_state(name, state, optax.EmptyState)
        message, shared, compressor_state = compressor.encode(
            updates, compressor_state, workers
        )
        total, finite = send(compressor, message, shared, finite, workers)
        return Exchanged(
            own=compressor.decode(message, shared),
            mean=jax.tree.map(lambda x: x / workers.size, total),
            finite=finite,
            compressor_state=compressor_state,
            state=state,
        )

    return Exchange(name, init, apply)

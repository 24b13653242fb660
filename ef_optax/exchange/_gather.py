"""Messages of any kind, sent to all workers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import check_state
from ef_optax._numerics import flag_of
from ef_optax.compressors import Compressor
from ef_optax.exchange._base import Exchange, Exchanged
from ef_optax.workers import Workers


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

    def apply(
        compressor: Compressor, updates: Any, finite: jax.Array, compressor_state: Any,
        state: Any, workers: Workers, memory: Any,
    ) -> Exchanged:
        del memory  # nothing is kept but by the workers themselves
        check_state("gather()", state, optax.EmptyState)
        message, shared, compressor_state = compressor.encode(
            updates, compressor_state, workers
        )
        messages, flags = workers.all_gather((message, flag_of(finite, jnp.uint8)))
        total, size = compressor.decode_sum(messages, shared), workers.size
        return Exchanged(
            own=compressor.decode(message, shared),
            mean=jax.tree.map(lambda x: x / size, total),
            finite=jnp.all(flags == 0),
            compressor_state=compressor_state,
            state=state,
        )

    return Exchange("gather()", lambda *_: optax.EmptyState(), apply)

"""Messages that add, summed on the way."""

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

    def init(compressor: Compressor, *_: Any) -> optax.EmptyState:
        if not compressor.additive:
            two_way = "exchange=two_way() or " if compressor.splittable else ""
            raise ValueError(
                f"all_reduce() sums messages, and those of {compressor!r} do not add "
                f"(or are too narrow to hold a sum). Use {two_way}exchange=gather()."
            )
        return optax.EmptyState()

    def apply(
        compressor: Compressor, updates: Any, finite: jax.Array, compressor_state: Any,
        state: Any, workers: Workers, memory: Any,
    ) -> Exchanged:
        del memory  # nothing is kept but by the workers themselves
        check_state("all_reduce()", state, optax.EmptyState)
        message, shared, compressor_state = compressor.encode(
            updates, compressor_state, workers
        )
        # The flag has the dtype of a leaf, so that it is sent in that leaf's buffer.
        dtype = next((m.dtype for m in jax.tree.leaves(message)), jnp.int8)
        total, flags = workers.sum((message, flag_of(finite, dtype)))
        size = workers.size
        return Exchanged(
            own=compressor.decode(message, shared),
            mean=jax.tree.map(lambda x: x / size, compressor.decode(total, shared)),
            finite=flags == 0,
            compressor_state=compressor_state,
            state=state,
        )

    return Exchange("all_reduce()", init, apply)

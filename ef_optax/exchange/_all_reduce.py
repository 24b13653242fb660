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
from ef_optax.exchange._memory import Memory
from ef_optax.workers import Workers


def all_reduce() -> Exchange:
    r"""Sums additive messages over the workers by one :func:`jax.lax.psum`.

    .. math::
      \bar u = \tfrac1M\, \mathrm{decode}\Big(\sum_{i=1}^M m_i\Big)

    A ring sends :math:`2 (M-1)/M` times the bytes of one message from every worker.

    Returns:
      An exchange for :func:`ef_optax.error_feedback` and :func:`ef_optax.compress`,
      the default of additive compressors.

    Examples:
      >>> import ef_optax
      >>> tx = ef_optax.error_feedback(
      ...     ef_optax.random_k(fraction=0.01), axis_name="workers",
      ...     exchange=ef_optax.all_reduce())
    """

    def check(compressor: Compressor) -> None:
        if not compressor.additive:
            two_way = "exchange=two_way() or " if compressor.splittable else ""
            raise ValueError(
                f"all_reduce() sums messages, and those of {compressor!r} do not add "
                f"(or are too narrow to hold a sum). Use {two_way}exchange=gather()."
            )

    def apply(
        compressor: Compressor,
        updates: Any,
        finite: jax.Array,
        compressor_state: Any,
        state: Any,
        workers: Workers,
        memory: Memory | None,
    ) -> Exchanged:
        del memory  # nothing is kept but by the workers themselves
        check_state("all_reduce()", state, optax.EmptyState)
        message, shared, new_state = compressor.encode(
            updates, compressor_state, workers
        )
        total, flags = _sum_over(workers, message, flag_of(finite, jnp.int8))
        size = workers.size
        if compressor.after_exchange is not None:
            mean_message = jax.tree.map(lambda m: m / size, total)
            new_state = compressor.after_exchange(mean_message, shared, new_state)
        return Exchanged(
            own=compressor.decode(message, shared),
            mean=jax.tree.map(lambda x: x / size, compressor.decode(total, shared)),
            finite=flags == 0,
            compressor_state=new_state,
            state=state,
        )

    return Exchange(
        "all_reduce()", lambda *_: optax.EmptyState(), apply, check
    )


def _sum_over(workers: Workers, message: Any, flag: jax.Array) -> tuple[Any, jax.Array]:
    """Sums a message and its flag over the workers, in one buffer per dtype."""
    leaves = jax.tree.leaves(message)
    # In the dtype of a leaf, so that the flag rides in that leaf's buffer.
    dtype = leaves[0].dtype if leaves else jnp.int8
    return workers.sum((message, flag.astype(dtype)))

"""What compress and error_feedback share: the way from local updates to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from ef_optax._checks import forgotten_call, shown
from ef_optax._numerics import keep_if, nan_unless
from ef_optax.compressors import Compressor
from ef_optax.compressors._base import check_decoded
from ef_optax.exchange import (
    Exchange,
    Exchanged,
    Memory,
    all_reduce,
    check_exchange,
    gather,
)
from ef_optax.vote import Vote
from ef_optax.workers import Workers
from ef_optax.workers._workers import held_by_feedback


class Crossing:
    """A compressor, an exchange and the workers between whom it takes place.

    With one worker and no exchange, any optax transformation may stand in the place
    of the compressor: nothing is encoded.
    """

    def __init__(
        self, caller: str, tx: Any, workers: Workers, exchange: Exchange | None
    ):
        _check_transformation(caller, tx, workers, exchange)
        if isinstance(tx, Compressor) and exchange is None and not workers.is_one:
            exchange = all_reduce() if tx.additive else gather()
        if exchange is not None:
            check_exchange(exchange, tx)
        self.tx = optax.with_extra_args_support(tx)
        self.workers = workers
        self.exchange = exchange

    def init(self, params: Any, error: Any = None) -> tuple[Any, Any]:
        """Returns the states of the compressor and of the exchange.

        Args:
          params: the parameters.
          error: the error of a worker at the start, None if nothing is kept.
        """
        start = self.tx.init(params)
        if self.exchange is None:
            return start, optax.EmptyState()
        return start, self.exchange.init(self.tx, params, self.workers, error)

    def apply(
        self,
        updates: Any,
        finite: jax.Array,
        tx_state: Any,
        state: Any,
        params: Any,
        extra: dict[str, Any],
        memory: Memory | None = None,
    ) -> Exchanged:
        """Returns own and mean, NaN and with the states as they were if not finite.

        Args:
          updates: what to compress; with one worker, 0 in the place of an input that
            is not finite.
          finite: whether this worker's input is finite.
          tx_state: state of the compressor.
          state: state of the exchange.
          params: for another transformation in the compressor's place.
          extra: likewise.
          memory: how an error is kept, None if nothing is.
        """
        if self.exchange is not None:
            out = self.exchange.apply(
                self.tx, updates, finite, tx_state, state, self.workers, memory
            )
        else:
            roundtrip: Callable[..., Any] = (
                self.tx.roundtrip
                if isinstance(self.tx, Compressor)
                else lambda u, s: self.tx.update(u, s, params, **extra)
            )
            with held_by_feedback():
                own, new_state = roundtrip(updates, tx_state)
            # One array for both, or XLA keeps two.
            own = nan_unless(finite, own)
            out = Exchanged(own, own, finite, new_state, state)
        if isinstance(self.tx, Compressor):
            check_decoded(repr(self.tx), out.own, updates)
        return out._replace(
            mean=out.mean if out.mean is out.own else nan_unless(out.finite, out.mean),
            compressor_state=keep_if(out.finite, out.compressor_state, tx_state),
        )


def _check_transformation(
    caller: str, tx: Any, workers: Workers, exchange: Exchange | None
) -> None:
    if isinstance(tx, Vote):
        raise TypeError(
            f"{caller} cannot hold a majority vote: the vote has no message that "
            "decodes to what it applies, so nothing could be kept. For error feedback "
            "of signs use error_feedback(scaled_sign(), axis_name=...)."
        )
    if isinstance(tx, Compressor):
        return
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(
            f"{caller} needs a compressor, such as scaled_sign() or top_k(k=10); got "
            f"{shown(tx)}.{forgotten_call(tx)}"
        )
    if not workers.is_one or exchange is not None:
        raise TypeError(
            f"{caller}: across workers (axis_name={workers.axis_name!r}) only a "
            "compressor can be sent, for it says what its message is; got "
            f"{shown(tx)}. "
            f"Chain other transformations before {caller}; with one worker "
            "(axis_name=None, no exchange) it takes them, and identity() sends all."
        )

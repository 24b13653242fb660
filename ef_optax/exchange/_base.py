"""How the messages of the workers become one update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ef_optax._checks import shown
from ef_optax.compressors import Compressor


class Exchanged(NamedTuple):
    """What an exchange returns.

    Attributes:
      own: what this worker's message decoded to, to the bit.
      mean: the mean of what all messages decoded to, the same on all workers.
      finite: whether the inputs of all workers were finite, the same on all workers.
      compressor_state: the compressor's next state, the same on all workers.
      state: the exchange's next state, as it was if not all were finite.
    """

    own: Any
    mean: Any
    finite: jax.Array
    compressor_state: Any
    state: Any


class Exchange(NamedTuple):
    """A way to cross the worker axis.

    Attributes:
      name: how it is called in messages.
      init: ``(compressor, params, workers, error) -> state``, where `error` is the
        error of a worker at the start, None if nothing is kept.
      apply: ``(compressor, updates, finite, compressor_state, state, workers, memory)
        -> Exchanged``, where `finite` says whether this worker's input is, and crosses
        with the message as its flag; `memory` says how an error is kept, None if
        nothing is.
      check: ``compressor -> None``, raises if the compressor cannot cross this way.
    """

    name: str
    init: Callable[..., Any]
    apply: Callable[..., Exchanged]
    check: Callable[[Compressor], None]

    def __repr__(self) -> str:
        return self.name


def check_exchange(exchange: Any, compressor: Compressor) -> None:
    """Refuses what is not an exchange, or one that the compressor cannot use."""
    if not isinstance(exchange, Exchange):
        raise TypeError(
            "exchange must be all_reduce(), gather() or two_way(); got "
            f"{shown(exchange)}."
            + (" Did you forget to call it?" if callable(exchange) else "")
        )
    exchange.check(compressor)

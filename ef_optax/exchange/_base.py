"""What an exchange is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


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
    """A way to send messages between the workers.

    Attributes:
      name: how it is called in messages.
      init: ``(compressor, params, workers, error) -> state``, where `error` is the
        error of a worker at the start, None if nothing is kept. It refuses a
        compressor whose messages cannot be sent this way.
      apply: ``(compressor, updates, finite, compressor_state, state, workers, memory)
        -> Exchanged``, where `finite` says whether this worker's input is, and is sent
        with the message as its flag; `memory` is the :class:`ef_optax.Memory` that
        keeps an error, None if nothing is kept. If not all inputs are finite, `own`
        and `mean` are thrown away.
    """

    name: str
    init: Callable[..., Any]
    apply: Callable[..., Exchanged]

    def __repr__(self) -> str:
        return self.name

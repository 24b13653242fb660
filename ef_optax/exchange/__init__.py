"""How messages cross: one file for each way."""

from ef_optax.exchange._all_reduce import all_reduce
from ef_optax.exchange._base import Exchange, Exchanged, check_exchange
from ef_optax.exchange._gather import gather
from ef_optax.exchange._memory import Memory
from ef_optax.exchange._two_way import TwoWayState, two_way

__all__ = [
    "Exchange",
    "Exchanged",
    "Memory",
    "TwoWayState",
    "all_reduce",
    "check_exchange",
    "gather",
    "two_way",
]

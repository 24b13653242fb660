"""How messages cross: one file for each way."""

from ef_optax.exchange._all_reduce import all_reduce
from ef_optax.exchange._base import Exchange, Exchanged, check_exchange
from ef_optax.exchange._gather import gather

__all__ = ["Exchange", "Exchanged", "all_reduce", "check_exchange", "gather"]

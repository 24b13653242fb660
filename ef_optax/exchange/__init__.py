"""How messages become one update: one file for each way."""

from ef_optax.exchange._all_reduce import all_reduce
from ef_optax.exchange._base import Exchange, Exchanged
from ef_optax.exchange._gather import gather
from ef_optax.exchange._two_way import TwoWayState, two_way

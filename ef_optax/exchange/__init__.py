"""How messages become one update: one file for each way."""

from ef_optax.exchange._base import Exchange, Exchanged
from ef_optax.exchange._one_way import all_reduce, gather
from ef_optax.exchange._two_way import TwoWayState, two_way

"""What crosses between workers, read from compiled programs."""

from ef_optax.wire._collectives import Collective, Traffic, bytes_sent, read_program
from ef_optax.wire._message import message_bits
from ef_optax.wire._report import WireReport, wire_report

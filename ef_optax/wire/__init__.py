"""What crosses between workers, read from compiled programs."""

from ef_optax.wire._collectives import Collective, Traffic, bytes_sent, read_program
from ef_optax.wire._report import WireReport, wire_report

__all__ = [
    "Collective",
    "Traffic",
    "WireReport",
    "bytes_sent",
    "read_program",
    "wire_report",
]

"""How a process of a study meets the others.

A script calls `initialize()` first. Who started it tells it the rest: our launcher,
``mpirun`` of Open MPI, ``srun`` of Slurm, or a TPU pod, all of which
:func:`jax.distributed.initialize` detects itself, without arguments.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator

from experiments._registry import StudyError

# A process that dies without a word is missed after the first, and processes that end
# wait for the others no longer than the second, in seconds. JAX's own are 100 and 300.
HEARTBEAT_SECONDS = 30
SHUTDOWN_SECONDS = 30

HOW = (
    "python -m experiments launch -n 2 -- COMMAND starts two processes on this host; "
    "so do mpirun and srun on a cluster."
)


def initialize(
    rank: int | None = None, count: int | None = None, coordinator: str | None = None
) -> None:
    """Joins the other processes; call it before anything starts JAX's backend.

    Args:
      rank: of this process; None lets JAX detect it.
      count: how many processes there are; None likewise.
      coordinator: HOST:PORT of process 0; None likewise.

    Raises:
      StudyError: if nothing tells which processes there are.
    """
    import jax

    try:
        jax.distributed.initialize(
            coordinator, count, rank,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise StudyError(f"no other processes found ({error}) {HOW}") from error


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ends the process if the block fails, without waiting for the other processes.

    Where a process is lost, a collective of the others fails; JAX would then wait at
    their exit for the lost one too, until its heartbeat is missed.
    """
    try:
        yield
    except StudyError:
        raise
    except Exception:
        traceback.print_exc()
        print("a process failed or was lost: this one ends too.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Returns the variables that tell a process of this host about the others.

    They are those of Open MPI's ``mpirun``, since JAX reads these and has none of its
    own for rank and count: any script that calls ``jax.distributed.initialize()`` then
    runs, and on GPUs each process takes the one of its rank.
    """
    return {
        "OMPI_MCA_orte_hnp_uri": "0.0;tcp://127.0.0.1:0",
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }


def free_port() -> int:
    """Returns a port of this host that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

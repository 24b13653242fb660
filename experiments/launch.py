"""Runs a command as several processes on this host that find one another.

    python -m experiments launch -n 4 -- python train.py --steps 100
    python -m experiments launch -n 4 -- -m experiments distributed

The command calls ``jax.distributed.initialize()`` without arguments, as it would under
Slurm, Open MPI or on a TPU pod, where no launcher is needed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from experiments._distributed import environment, free_port

_POLL_SECONDS = 0.05


def main(argv: Sequence[str]) -> int:
    """Runs what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m experiments launch", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [-n N] [--grace SECONDS] [--devices D] -- COMMAND...",
    )
    parser.add_argument("-n", type=int, default=2, metavar="N", help="processes [2]")
    parser.add_argument(
        "--grace", type=float, default=60.0, metavar="SECONDS",
        help="when one ends badly, how long the others may take to end [60]",
    )
    parser.add_argument(
        "--devices", type=int, default=1, metavar="D",
        help="CPU devices, and so workers, of each process [1]",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND",
                        help="python's options if it starts with - or ends in .py")
    options = parser.parse_args(argv)
    command = options.command[options.command[:1] == ["--"]:]
    if not command:
        parser.error("which command? Such as: launch -n 2 -- python train.py")
    if options.n < 1 or options.devices < 1 or options.grace < 0:
        parser.error(
            "-n and --devices must be at least 1, --grace not negative; got "
            f"{options.n}, {options.devices} and {options.grace:g}."
        )
    if command[0].startswith("-") or command[0].endswith(".py"):
        command = [sys.executable, *command]
    extra = {"JAX_NUM_CPU_DEVICES": str(options.devices)}
    try:
        with Group(command, options.n, extra) as group:
            group.echo()
            return group.wait(options.grace)
    except OSError as error:
        print(f"error: cannot run {command[0]}: {error}", file=sys.stderr)
        return 127
    except KeyboardInterrupt:
        print("launch: interrupted; all processes were ended.", file=sys.stderr)
        return 130


class Group:
    """Processes of one command; leaving its ``with`` block ends all that still run.

    Args:
      command: what each runs.
      count: how many.
      extra: more variables of their environment.
      **options: of :class:`subprocess.Popen`, such as where their output goes.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        extra: dict[str, str] | None = None,
        **options: Any,
    ):
        port = free_port()
        streams: dict[str, Any] = {
            "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT
        }
        self.processes: list[subprocess.Popen[str]] = []
        self._echoes: list[threading.Thread] = []
        self._before: Any = None
        try:
            for rank in range(count):
                variables = {
                    "PYTHONUNBUFFERED": "1",
                    **os.environ,
                    **environment(rank, count, port),
                    **(extra or {}),
                }
                # A session of its own, so that what it starts ends with it.
                self.processes.append(subprocess.Popen(
                    command, env=variables, text=True, errors="replace",
                    start_new_session=True, **(streams | options),
                ))
        except BaseException:
            self.end(0)
            raise

    def __enter__(self) -> Group:
        # A request to end is an interrupt: the processes are to end with this one.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def echo(self) -> None:
        """Prints what the processes print, each line with the rank in front."""
        for rank, process in enumerate(self.processes):
            thread = threading.Thread(target=_echo, args=(rank, process), daemon=True)
            thread.start()
            self._echoes.append(thread)

    def wait(self, grace: float, timeout: float | None = None) -> int:
        """Waits until all have ended; returns 0, or the code of the first that failed.

        Args:
          grace: when one has failed, how many seconds the others may take to end.
          timeout: how many seconds all may take.

        Raises:
          TimeoutError: if they take longer; then all have been ended.
        """
        start, deadline, code = time.monotonic(), None, 0
        # Of all, not any: each must be asked.
        while None in [process.poll() for process in self.processes]:
            failed = self._failed()
            if failed is not None and deadline is None:
                deadline = time.monotonic() + grace
                code = self._report(failed, f"; the others have {grace:g} s to end.")
            if deadline is not None and time.monotonic() > deadline:
                break
            if timeout is not None and time.monotonic() - start > timeout:
                self.end(0)
                raise TimeoutError(f"the processes took more than {timeout:g} s.")
            time.sleep(_POLL_SECONDS)
        failed = self._failed()
        if failed is not None and not code:
            code = self._report(failed, ".")
        self.end()
        return code

    def end(self, grace: float = 3.0) -> None:
        """Ends all that still run, by force after so many seconds."""
        # JAX takes SIGTERM for an announcement only.
        for process in self.processes:
            _signal(process, signal.SIGINT if grace else signal.SIGKILL)
        until = time.monotonic() + grace
        for process in self.processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        for thread in self._echoes:
            thread.join(1.0)

    def _failed(self) -> int | None:
        codes = [process.returncode for process in self.processes]
        return next((rank for rank, code in enumerate(codes) if code), None)

    def _report(self, rank: int, rest: str) -> int:
        """Says how a process ended; returns the exit code that a shell would give."""
        code = self.processes[rank].returncode
        how = f"with exit code {code}" if code > 0 else f"by {_signal_name(-code)}"
        print(f"launch: process {rank} ended {how}{rest}", file=sys.stderr, flush=True)
        return code if code > 0 else 128 - code


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Sends a signal to a process and to what it started, if it still runs."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _echo(rank: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        # One write, so that lines of several processes do not mix.
        sys.stdout.write(f"[{rank}] {line}" if line.endswith("\n") else f"[{rank}] "
                         f"{line}\n")
        sys.stdout.flush()

"""Real processes for tests: started together, ended whatever happens.

Starting JAX takes seconds, so tests share what one start measures.
"""

import contextlib
import fcntl
import json
import pathlib
import sys
import tempfile

from experiments.launch import Group

ROOT = pathlib.Path(__file__).parent.parent
CHILD = pathlib.Path(__file__).parent / "process_child.py"


@contextlib.contextmanager
def alone():
    """Waits until no other test of this machine has the loopback."""
    path = pathlib.Path(tempfile.gettempdir()) / "ef_optax_loopback.lock"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def group(command, count, devices=1, cwd=ROOT):
    """Starts `count` processes of a command that find one another."""
    variables = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT),
                 "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return Group([sys.executable, *map(str, command)], count, variables, cwd=cwd)


def measure(name, count, devices=1, timeout=180):
    """Runs a function of process_child.py in processes; returns what each returned.

    Fails with all that they printed if any ends badly or takes too long.
    """
    with tempfile.TemporaryDirectory() as directory:
        paths = [pathlib.Path(directory) / str(rank) for rank in range(count)]
        with alone(), group([CHILD, name, directory], count, devices) as processes:
            processes.echo()
            code = processes.wait(grace=10, timeout=timeout)
        assert code == 0, f"{name} failed"
        return [json.loads(path.read_text()) for path in paths]

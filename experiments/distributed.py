"""Training over processes, with checkpoints: stop it anywhere and start it again.

    python -m experiments launch -n 2 -- -m experiments distributed
    srun -n 4 python -m experiments distributed          # the same under Slurm
    mpirun -n 4 python -m experiments distributed        # and under Open MPI

Each device of each process is a worker. Started again after whatever ended it, it goes
on from its last checkpoint and ends with the very bits that it would have had. With
``--resize`` it goes on with another number of workers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import field
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax
from experiments import data
from experiments._checkpoints import Checkpoints, place, raw
from experiments._checks import check_least, check_not_negative
from experiments._distributed import initialize, leaving_at_once
from experiments._registry import StudyError
from experiments._results import Results, table
from experiments._workers import worker_devices
from experiments.models import MLP
from experiments.training import Classification

AXIS = "workers"
_WRONG = ": a transformation before the exchange, or the exchange itself, is wrong."

# From a learning rate to an optimizer; each crosses in its own way.
OPTIMIZERS = {
    "mean": lambda rate: optax.chain(
        ef_optax.compress(ef_optax.identity(), axis_name=AXIS),
        optax.scale_by_learning_rate(rate),
    ),
    "gather": lambda rate: ef_optax.ef_sign_sgd(rate, axis_name=AXIS, momentum=0.9),
    "two_way": lambda rate: ef_optax.ef_sign_sgd(
        rate, axis_name=AXIS, momentum=0.9, exchange=ef_optax.two_way()
    ),
    "vote": lambda rate: ef_optax.signum(rate, axis_name=AXIS),
    "packed_vote": lambda rate: ef_optax.signum(
        rate, axis_name=AXIS, wire="packed", zero="positive", tie="positive"
    ),
}
RATES = {"mean": 0.1, "gather": 0.1, "two_way": 0.1, "vote": 1e-3, "packed_vote": 1e-3}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a small network on scikit-learn's digits, data-parallel over processes."""

    optimizer: str = field(
        default="two_way", metadata={"help": f"one of {', '.join(OPTIMIZERS)}"}
    )
    learning_rate: float = field(
        default=0.0, metadata={"help": "0: one that suits the optimizer"}
    )
    steps: int = field(default=300, metadata={"help": "of the whole training"})
    batch_size: int = field(default=48, metadata={"help": "of all workers together"})
    widths: tuple[int, ...] = field(
        default=(64,), metadata={"help": "of the hidden layers"}
    )
    seed: int = field(default=0, metadata={"help": "of parameters and batches"})
    checkpoints: str | None = field(
        default=None, metadata={"help": "directory; what is there is gone on with"}
    )
    every: int = field(default=50, metadata={"help": "steps between checkpoints"})
    resize: bool = field(
        default=False, metadata={"help": "go on with another number of workers"}
    )
    log_every: int = field(default=50, metadata={"help": "steps between printed lines"})
    virtual: int = field(
        default=0, metadata={"help": "workers in this one process, without others"}
    )
    results: str = field(
        default="results", metadata={"help": "directory of all results"}
    )

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}; got "
                f"{self.optimizer!r}."
            )
        check_least(self, 1, "steps", "batch_size", "every", "log_every")
        check_not_negative(self, "virtual")
        rate = self.learning_rate or RATES[self.optimizer]
        object.__setattr__(self, "learning_rate", rate)


class State(NamedTuple):
    """What all workers hold together."""

    params: Any
    optimizer: Any


class Training:
    """A network, its data and a compiled step over the workers of a mesh."""

    def __init__(self, config: Config, mesh: Mesh):
        if config.batch_size % mesh.size:
            raise StudyError(
                f"a batch of {config.batch_size} does not divide evenly among "
                f"{mesh.size} workers; choose a --batch-size that is a multiple of "
                "their number."
            )
        self.config, self.mesh = config, mesh
        digits = data.load("digits", None, split_seed=0)
        self.task = Classification(MLP(config.widths), data.standardize(digits))
        tx = OPTIMIZERS[config.optimizer](config.learning_rate)
        self._tx = ef_optax.over_workers(tx, mesh, AXIS)
        self._step = jax.jit(self._one_step, donate_argnums=0)

    def start(self) -> State:
        """Returns the state before the first step, placed on the mesh."""
        # Every process makes the same ones, since the seed is the same.
        params = jax.device_get(self.task.init(self.config.seed))
        replicated = NamedSharding(self.mesh, P())
        params = place(params, jax.tree.map(lambda _: replicated, params))
        return State(params, self._tx.init(params))

    def step(self, state: State, number: int) -> tuple[State, jax.Array]:
        """Returns the state after a step, and the loss before it.

        The batch is a function of seed and number, so that a training that goes on
        takes those that it would have taken.
        """
        rng = np.random.default_rng([self.config.seed, number])
        digits = self.task.data
        order = rng.permutation(len(digits.x_train))[: self.config.batch_size]
        batch = order.reshape(self.mesh.size, -1)
        x, y = digits.x_train[batch], digits.y_train[batch]
        split = NamedSharding(self.mesh, P(AXIS))
        return self._step(state, *place((x, y), (split, split)))

    def accuracy(self, state: State) -> float:
        """Returns the accuracy on the test part, in percent."""
        return self.task.evaluate(state.params)["test_accuracy"]

    def _one_step(
        self, state: State, x: jax.Array, y: jax.Array
    ) -> tuple[State, jax.Array]:
        each = jax.vmap(jax.value_and_grad(self.task.loss), in_axes=(None, 0, 0))
        losses, grads = each(state.params, x, y)
        updates, optimizer = self._tx.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, optimizer), losses.mean()


def run(config: Config) -> dict[str, Any]:
    """Trains, or goes on with a training; returns what came of it."""
    if config.virtual:
        return _run(config, ef_optax.worker_mesh(
            devices=worker_devices(config.virtual)
        ))
    initialize()
    with leaving_at_once():
        return _run(config, ef_optax.worker_mesh())


def _run(config: Config, mesh: Mesh) -> dict[str, Any]:
    training = Training(config, mesh)
    state, first = training.start(), 0
    checkpoints = None
    if config.checkpoints is not None:
        checkpoints = Checkpoints(config.checkpoints, mesh)
        if checkpoints.latest is not None:
            first = checkpoints.latest
            state = checkpoints.restore(
                jax.eval_shape(lambda: state), resize=config.resize
            )
            say(f"goes on from step {first}")
    losses = []
    for done in range(first + 1, config.steps + 1):
        state, loss = training.step(state, done - 1)
        losses.append(loss)
        if done % config.log_every == 0 or done == config.steps:
            say(f"step {done} loss {float(loss):.4f}")
        if checkpoints is not None and done % config.every == 0:
            checkpoints.save(done, state)
    if checkpoints is not None:
        checkpoints.close()
    out = {
        "workers": mesh.size, "processes": jax.process_count(), "from_step": first,
        "steps": config.steps, "test_accuracy": training.accuracy(state),
        "digest": digest(state),
    }
    if jax.process_index() == 0:
        _write(config, out, [float(loss) for loss in losses])
    return out


def digest(tree: Any) -> str:
    """Returns a checksum of every bit of the state of all workers.

    Raises:
      RuntimeError: if what is the same on all workers is not, to the bit.
    """
    shared, own = hashlib.sha256(), []
    for i, leaf in enumerate(jax.tree.leaves(raw(tree))):
        whole = leaf.sharding.is_fully_replicated
        parts = {s.device.id: np.asarray(s.data).tobytes()
                 for s in leaf.addressable_shards}
        if whole and len(set(parts.values())) > 1:
            raise RuntimeError(f"the workers drifted apart within a process{_WRONG}")
        if whole:
            shared.update(next(iter(parts.values())))
        else:
            own += [(i, device, part) for device, part in sorted(parts.items())]
    mine = [shared.digest(), *(
        hashlib.sha256(part).digest() for _, _, part in sorted(own, key=lambda x: x[1])
    )]
    everyone = _gather_bytes(b"".join(mine))
    if len({part[:32] for part in everyone}) > 1:
        raise RuntimeError(f"the workers drifted apart between processes{_WRONG}")
    total = hashlib.sha256(everyone[0][:32])
    for part in everyone:
        total.update(part[32:])
    return total.hexdigest()[:16]


def _gather_bytes(mine: bytes) -> list[bytes]:
    """Returns the bytes of every process, of equal length, in the order of ranks."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [mine]
    gathered = multihost_utils.process_allgather(np.frombuffer(mine, np.uint8))
    return [row.tobytes() for row in np.asarray(gathered)]


def say(text: str) -> None:
    """Prints a line, once and at once."""
    if jax.process_index() == 0:
        print(text, flush=True)


def _write(config: Config, out: dict[str, Any], losses: list[float]) -> None:
    results = Results(config.results, "distributed", config, replace=True)
    results.metric(**out, losses=losses)
    rows = [[name.replace("_", " "), f"{value:.2f}" if isinstance(value, float)
             else str(value)] for name, value in out.items()]
    text = f"{config.optimizer} on digits\n\n" + table(["training", ""], rows)
    results.summary(text)
    print(text, flush=True)

"""Data-parallel training: every worker has its own data, gradient and error."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import ef_optax
from ef_optax.wire import bytes_sent
from experiments._registry import StudyError
from experiments._workers import worker_devices
from experiments.data import Dataset

AXIS = "workers"

# From a learning rate, maybe traced, and the axis of the workers, None for one worker,
# to an optimizer.
Algorithm = Callable[[Any, Any], optax.GradientTransformation]


class Classification:
    """A network, its loss and its data."""

    def __init__(self, model: nn.Module, data: Dataset):
        """Prepares to train and test `model`, from inputs to logits, on `data`."""
        self.data = data
        self._model = model
        sample = jnp.zeros((1, data.x_train.shape[1]))
        self.init = jax.jit(lambda seed: model.init(jax.random.key(seed), sample))
        self.parameters = sum(
            x.size for x in jax.tree.leaves(jax.eval_shape(self.init, 0))
        )
        self._evaluate = jax.jit(self.measure)

    def loss(self, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the mean cross-entropy."""
        return self.measure(params, x, y)[0]

    def measure(self, params: Any, x: jax.Array, y: jax.Array) -> Any:
        """Returns the mean cross-entropy, and which part is recognised."""
        logits: Any = self._model.apply(params, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), (logits.argmax(-1) == y).mean()

    def evaluate(self, params: Any) -> dict[str, float]:
        """Returns loss and accuracy, in percent, on both parts of the data."""
        out = {}
        for part in ("train", "test"):
            x, y = getattr(self.data, f"x_{part}"), getattr(self.data, f"y_{part}")
            loss, accuracy = self._evaluate(params, x, y)
            out[f"{part}_loss"] = float(loss)
            out[f"{part}_accuracy"] = 100 * float(accuracy)
        return out


class State(NamedTuple):
    """What one worker holds."""

    params: Any
    optimizer: Any


class Run(NamedTuple):
    """One training.

    Attributes:
      params: as trained; the same on all workers, which was checked.
      losses: of the batch before every step, all workers' mean.
      seconds: that it took, without compilation.
    """

    params: Any
    losses: np.ndarray
    seconds: float


class Trainer:
    """One algorithm with its step compiled once, for every learning rate and seed.

    The training data are dealt out to the workers; each draws batches from its own.
    """

    def __init__(
        self, algorithm: Algorithm, task: Classification, workers: int, batch_size: int
    ):
        """Compiles an epoch.

        Args:
          algorithm: from a learning rate and an axis name to an optimizer.
          task: what to learn.
          workers: how many, each on a device of its own.
          batch_size: of all workers together.
        """
        self.task, self.workers, self._algorithm = task, workers, algorithm
        self._batch = batch_size // workers
        self._share = len(task.data.x_train) // workers
        # A rest that fills no batch waits for the next epoch.
        self.steps_per_epoch = self._share // self._batch
        if self.steps_per_epoch == 0:
            raise StudyError(
                f"a worker's {self._share} examples do not fill its batch of "
                f"{self._batch}; take a smaller batch or fewer workers."
            )
        pmap = functools.partial(
            jax.pmap, axis_name=AXIS, devices=worker_devices(workers)
        )
        self._data = pmap(lambda x, y: (x, y))(
            self._deal(task.data.x_train), self._deal(task.data.y_train)
        )
        self._start = pmap(self._start_worker, in_axes=(None, 0))
        started = time.perf_counter()
        # Compiled ahead, so that the program that runs can also be read.
        self._epoch = (
            pmap(self._epoch_worker, in_axes=(0, 0, 0, 0, None), donate_argnums=0)
            .lower(self._start_all(0), *self._data, self._orders(0, 0), np.float32(0))
            .compile()
        )
        self.compile_seconds = time.perf_counter() - started
        program = self._epoch.as_text()
        self.bytes_per_step = bytes_sent(program) / self.steps_per_epoch

    def train(
        self,
        learning_rate: float,
        seed: int,
        epochs: int,
        after_epoch: Callable[[], Any] = lambda: None,
    ) -> Run:
        """Trains from the start.

        Raises:
          RuntimeError: if the workers' parameters are not the same to the bit.
        """
        state, losses = self._start_all(seed), []
        jax.block_until_ready(state)
        started = time.perf_counter()
        for epoch in range(epochs):
            orders = self._orders(seed, epoch)
            state, loss = self._epoch(
                state, *self._data, orders, np.float32(learning_rate)
            )
            losses.append(np.asarray(loss).mean(axis=0))
            after_epoch()
        seconds = time.perf_counter() - started
        return Run(one_of(state.params), np.concatenate(losses), seconds)

    def _start_worker(self, params: Any, index: jax.Array) -> State:
        # State that belongs to one worker is made where the axis is bound.
        del index
        return State(params, self._algorithm(0.0, AXIS).init(params))

    def _epoch_worker(
        self, state: State, x: Any, y: Any, orders: Any, learning_rate: Any
    ) -> tuple[State, jax.Array]:
        """Trains one worker for one epoch; runs inside pmap."""
        tx = self._algorithm(learning_rate, AXIS)
        local = ef_optax.local_value_and_grad(self.task.loss, AXIS)

        def step(state: State, batch: jax.Array) -> tuple[State, jax.Array]:
            loss, grads = local(state.params, x[batch], y[batch])
            updates, optimizer = tx.update(grads, state.optimizer, state.params)
            return State(optax.apply_updates(state.params, updates), optimizer), loss

        return jax.lax.scan(step, state, orders)

    def _start_all(self, seed: int) -> State:
        return self._start(self.task.init(seed), np.arange(self.workers))

    def _deal(self, array: np.ndarray) -> np.ndarray:
        whole = array[: self._share * self.workers]
        return whole.reshape(self.workers, self._share, *array.shape[1:])

    def _orders(self, seed: int, epoch: int) -> np.ndarray:
        """Returns each worker's batches of an epoch, as indices into its own data."""
        used = self.steps_per_epoch * self._batch
        orders = [
            np.random.default_rng([seed, epoch, worker]).permutation(self._share)
            for worker in range(self.workers)
        ]
        return np.stack(orders)[:, :used].astype(np.int32).reshape(
            self.workers, self.steps_per_epoch, self._batch
        )


def one_of(replicas: Any) -> Any:
    """Returns what every worker has, after checking that they all have the same.

    Raises:
      RuntimeError: if any two differ in a single bit.
    """

    def first(path: Any, leaf: Any) -> np.ndarray:
        copies = np.asarray(leaf)
        if any(copy.tobytes() != copies[0].tobytes() for copy in copies[1:]):
            name = jax.tree_util.keystr(path)
            raise RuntimeError(
                f"the workers drifted apart: their {name} differ. A transformation "
                "before the exchange, or the exchange itself, is wrong."
            )
        return copies[0]

    return jax.tree_util.tree_map_with_path(first, replicas)

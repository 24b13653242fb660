"""Training for a number of steps, several learning rates at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ef_optax
from experiments._registry import StudyError
from experiments.data import Dataset
from experiments.mnist._batches import draw
from experiments.mnist._config import Batches, Cell, Config
from experiments.models import MLP
from experiments.training import Classification

# As the library's table of bits calls the methods.
BITS = {"signSGD": "majority_vote", "SGD": "sgd"}
# Steps between two looks of Python at a run.
CHUNK = 256


class Scores(NamedTuple):
    """Losses and accuracies in percent, an array each, one number a rate."""

    loss: np.ndarray
    accuracy: np.ndarray


class Trainer:
    """Networks of all widths, on one set of training examples."""

    def __init__(self, config: Config, data: Dataset):
        self._config = config
        self.tasks = {w: Classification(MLP((w,)), data) for w in config.widths}
        self._x, self._y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
        self._labels = data.y_train
        self._looked_at = {
            "train": (self._x[: config.train_sample], self._y[: config.train_sample]),
            "test": (jnp.asarray(data.x_test), jnp.asarray(data.y_test)),
        }
        self._advance = jax.jit(self._steps, static_argnames="cell")
        self._measure = jax.jit(self._scores, static_argnames="width")
        self._sample = jax.jit(self._gradients, static_argnames="width")

    def bits(self, cell: Cell) -> float:
        """Returns how many bits a gradient takes, sent one way."""
        parameters = self.tasks[cell.width].parameters
        # The table counts both ways.
        method = BITS[cell.method]
        return ef_optax.measures.bits_per_step(method, parameters, workers=1) / 2

    def megabytes(self, cell: Cell, steps: np.ndarray) -> np.ndarray:
        """Returns what so many steps send."""
        return steps * self.bits(cell) / 8e6

    def steps(self, cell: Cell, megabytes: float) -> int:
        """Returns how many gradients fit into a budget.

        Raises:
          StudyError: if none does.
        """
        steps = int(megabytes * 8e6 / self.bits(cell))
        if steps < 1:
            raise StudyError(
                f"{megabytes:g} MB are less than one gradient of {cell.method}, "
                f"{self.bits(cell) / 8e6:g} MB; take larger budgets or smaller widths."
            )
        return steps

    def epoch(self, number: int, batch_size: int) -> int:
        """Returns after how many steps an epoch, counted from 1, begins."""
        return (number - 1) * (len(self._labels) // batch_size)

    def train(
        self, cell: Cell, rates: tuple[float, ...], stops: list[int], seed: int
    ) -> Iterator[tuple[int, Any]]:
        """Trains from the start with each of the rates; all see the same batches.

        Yields:
          Each of the stops, which ascend, and the parameters after so many steps,
          leaves [rates, ...].

        Raises:
          StudyError: if the examples do not fill a batch.
        """
        if cell.batch_size > len(self._labels):
            raise StudyError(
                f"{len(self._labels)} examples do not fill a batch of "
                f"{cell.batch_size}."
            )
        orders, _ = draw(cell.batches, self._labels, cell.batch_size, stops[-1], seed)
        given = np.asarray(rates, np.float32)
        # Programs do not depend on how batches are drawn.
        cell = cell._replace(batches="standard")
        carry, at = self._start(cell, given, seed), 0
        for stop in stops:
            while at < stop:
                # Of one length, so that one program serves runs of any length.
                count = min(CHUNK, stop - at)
                chunk = np.zeros((CHUNK, cell.batch_size), np.int32)
                chunk[:count] = orders[at : at + count]
                carry = self._advance(
                    carry, given, chunk, count, self._x, self._y, cell=cell
                )
                at += count
            yield stop, carry[0]

    def _optimizer(self, rate: Any, cell: Cell) -> Any:
        if cell.method == "signSGD":
            return ef_optax.sign_sgd(rate, zero=self._config.zero)
        return optax.sgd(rate)

    def _start(self, cell: Cell, rates: Any, seed: int) -> Any:
        """Returns parameters and the optimizer's state, the same for every rate."""
        params = self.tasks[cell.width].init(seed)
        start = params, self._optimizer(rates[0], cell).init(params)
        return jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, (len(rates), *leaf.shape)), start
        )

    def _steps(
        self, carry: Any, rates: Any, orders: Any, count: Any, x: Any, y: Any,
        cell: Cell,
    ) -> Any:
        """Does so many steps with all rates; the inputs are read once for all."""
        loss = self.tasks[cell.width].loss

        def one(carry: Any, rate: Any) -> Any:
            tx = self._optimizer(rate, cell)

            def step(k: Any, carry: Any) -> Any:
                params, state = carry
                batch = orders[k]
                grads = jax.grad(loss)(params, x[batch], y[batch])
                updates, state = tx.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            return jax.lax.fori_loop(0, count, step, carry)

        return jax.vmap(one)(carry, rates)

    def score(self, width: int, params: Any, part: str) -> Scores:
        """Returns the scores of parameters [rates, ...] on a part of the data.

        Of the examples to train on only the first are looked at.
        """
        loss, accuracy = self._measure(params, *self._looked_at[part], width=width)
        return Scores(np.asarray(loss), 100 * np.asarray(accuracy))

    def _scores(self, params: Any, x: Any, y: Any, width: int) -> Any:
        return jax.vmap(self.tasks[width].measure, (0, None, None))(params, x, y)

    def gradients(
        self, cell: Cell, params: Any, batches: Batches, count: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Samples stochastic gradients of all biases, those of the outputs last.

        Args:
          cell: of the network.
          params: of one network.
          batches: how to draw.
          count: how many gradients.
          seed: of the draws.

        Returns:
          Gradients [count, biases], and of which part of the data each is [count].
        """
        orders, part = draw(batches, self._labels, cell.batch_size, count, seed)
        sampled = self._sample(params, orders, self._x, self._y, width=cell.width)
        return np.asarray(sampled), part

    def _gradients(self, params: Any, orders: Any, x: Any, y: Any, width: int) -> Any:
        layers = params["params"]
        names = sorted(layers)  # Dense_0, then Dense_1.

        def loss(biases: Any, batch: Any) -> Any:
            replaced = {name: layers[name] | {"bias": biases[name]} for name in names}
            return self.tasks[width].loss({"params": replaced}, x[batch], y[batch])

        def gradient(batch: Any) -> Any:
            biases = {name: layers[name]["bias"] for name in names}
            grads = jax.grad(loss)(biases, batch)
            return jnp.concatenate([grads[name] for name in names])

        return jax.lax.map(gradient, orders)

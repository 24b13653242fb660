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
    """A network of one width, on one set of training examples."""

    def __init__(self, config: Config, width: int, data: Dataset):
        self._config, self._data = config, data
        self._task = Classification(MLP((width,)), data)
        self.parameters = self._task.parameters
        self._x, self._y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
        self._looked_at = {
            "train": (self._x[: config.train_sample], self._y[: config.train_sample]),
            "test": (jnp.asarray(data.x_test), jnp.asarray(data.y_test)),
        }
        self._begin = jax.jit(self._start, static_argnames="method")
        self._advance = jax.jit(self._steps, static_argnames="method")
        self._measure = jax.jit(jax.vmap(self._task.measure, (0, None, None)))
        self._gradients = jax.jit(self._sample)

    def steps(self, method: str, megabytes: float) -> int:
        """Returns how many gradients fit into a budget, sent one way.

        Raises:
          StudyError: if none does.
        """
        # The table counts both ways.
        bits = ef_optax.bits_per_step(BITS[method], self.parameters, workers=1) / 2
        steps = int(megabytes * 8e6 / bits)
        if steps < 1:
            raise StudyError(
                f"{megabytes:g} MB are less than one gradient of {method}, "
                f"{bits / 8e6:g} MB; take larger budgets or smaller widths."
            )
        return steps

    def megabytes(self, method: str, steps: Any) -> Any:
        """Returns what so many steps send."""
        bits = ef_optax.bits_per_step(BITS[method], self.parameters, workers=1) / 2
        return np.asarray(steps) * bits / 8e6

    def epoch(self, number: int, batch_size: int) -> int:
        """Returns after how many steps an epoch, counted from 1, begins."""
        return (number - 1) * (len(self._y) // batch_size)

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
        if cell.batch_size > len(self._y):
            raise StudyError(
                f"{len(self._y)} examples do not fill a batch of {cell.batch_size}."
            )
        orders, _ = draw(
            cell.batches, np.asarray(self._y), cell.batch_size, stops[-1], seed
        )
        given = np.asarray(rates, np.float32)
        carry, at = self._begin(self._task.init(seed), given, method=cell.method), 0
        for stop in stops:
            while at < stop:
                # Of one length, so that one program serves runs of any length.
                count = min(CHUNK, stop - at)
                chunk = np.zeros((CHUNK, cell.batch_size), np.int32)
                chunk[:count] = orders[at : at + count]
                carry = self._advance(
                    carry, given, chunk, count, self._x, self._y, method=cell.method
                )
                at += count
            yield stop, carry[0]

    def _optimizer(self, rate: Any, method: str) -> Any:
        if method == "signSGD":
            return ef_optax.sign_sgd(rate, zero=self._config.zero)
        return optax.sgd(rate)

    def _start(self, params: Any, rates: Any, method: str) -> Any:
        """Returns parameters and the optimizer's state for every rate."""
        return jax.vmap(
            lambda rate: (params, self._optimizer(rate, method).init(params))
        )(rates)

    def _steps(
        self, carry: Any, rates: Any, orders: Any, count: Any, x: Any, y: Any,
        method: str,
    ) -> Any:
        """Does so many steps with all rates; the inputs are read once for all."""

        def one(carry: Any, rate: Any) -> Any:
            tx = self._optimizer(rate, method)

            def step(k: Any, carry: Any) -> Any:
                params, state = carry
                batch = orders[k]
                grads = jax.grad(self._task.loss)(params, x[batch], y[batch])
                updates, state = tx.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            return jax.lax.fori_loop(0, count, step, carry)

        return jax.vmap(one)(carry, rates)

    def score(self, params: Any, part: str) -> Scores:
        """Returns the scores of parameters [rates, ...] on a part of the data.

        Of the examples to train on only the first are looked at.
        """
        loss, accuracy = self._measure(params, *self._looked_at[part])
        return Scores(np.asarray(loss), 100 * np.asarray(accuracy))

    def gradients(
        self, params: Any, batches: Batches, batch_size: int, count: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Samples stochastic gradients of all biases, those of the outputs last.

        Args:
          params: of one network.
          batches: how to draw.
          batch_size: examples a gradient.
          count: how many gradients.
          seed: of the draws.

        Returns:
          Gradients [count, biases], and of which part of the data each is [count].
        """
        orders, part = draw(batches, np.asarray(self._y), batch_size, count, seed)
        return np.asarray(self._gradients(params, orders, self._x, self._y)), part

    def _sample(self, params: Any, orders: Any, x: Any, y: Any) -> Any:
        layers = params["params"]
        names = sorted(layers)  # Dense_0, then Dense_1.

        def loss(biases: Any, batch: Any) -> Any:
            replaced = {name: layers[name] | {"bias": biases[name]} for name in names}
            return self._task.loss({"params": replaced}, x[batch], y[batch])

        def gradient(batch: Any) -> Any:
            biases = {name: layers[name]["bias"] for name in names}
            grads = jax.grad(loss)(biases, batch)
            return jnp.concatenate([grads[name] for name in names])

        return jax.lax.map(gradient, orders)

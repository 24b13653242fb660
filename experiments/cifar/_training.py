"""One training: its epochs, its drops of the learning rate, and its checkpoints."""

from __future__ import annotations

import math
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import ef_optax
from experiments._checkpoints import Checkpoints
from experiments._registry import StudyError
from experiments.cifar._steps import SUMMED, State, Steps

COLUMNS = (*SUMMED, "test_loss", "test_accuracy", "seconds")

Protocol = Literal["clean", "original"]


class Plan(NamedTuple):
    """How to train, whatever the network and the algorithm.

    Attributes:
      epochs: passes over the data.
      drops: before which epochs the learning rate falls.
      drop_factor: by what it is divided there.
      batch_size: of all workers together.
      learning_rate: of the first epoch.
      seed: of initial values, batches and augmentation.
      protocol: "clean" carries all state through the drops; "original" starts there
        from the parameters of the best test accuracy with a new optimizer, as the code
        of 2019 did.
      evaluate_every: epochs between evaluations; the last one is always evaluated.
      checkpoint_every: epochs between checkpoints, 0 for none.
    """

    epochs: int
    drops: tuple[int, ...]
    drop_factor: float
    batch_size: int
    learning_rate: float
    seed: int
    protocol: Protocol = "clean"
    evaluate_every: int = 1
    checkpoint_every: int = 0

    def rate(self, epoch: int) -> np.float32:
        """Returns the learning rate of an epoch, counted from 0."""
        passed = sum(epoch >= drop for drop in self.drops)
        return np.float32(self.learning_rate / self.drop_factor**passed)

    def batches(self, epoch: int, count: int) -> np.ndarray:
        """Returns the places of an epoch's images [steps, batch_size].

        They are a function of seed and epoch, so that a training that goes on takes
        those that it would have taken. A rest that fills no batch is left out.
        """
        steps = count // self.batch_size
        order = np.random.default_rng([self.seed, epoch]).permutation(count)
        return order[: steps * self.batch_size].astype(np.int32).reshape(steps, -1)


class Trained(NamedTuple):
    """What came of a training.

    Attributes:
      state: the last one.
      history: float32 [epochs, columns], see `COLUMNS`; NaN where nothing was measured.
    """

    state: State
    history: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """Returns one column of the history."""
        return self.history[:, COLUMNS.index(name)]

    @property
    def diverged(self) -> bool:
        """Whether the training ended in numbers that are not finite."""
        return not math.isfinite(self.column("train_loss")[-1])


def train(
    steps: Steps,
    plan: Plan,
    train_data: tuple[Any, Any],
    test_data: tuple[Any, Any],
    checkpoints: pathlib.Path | None = None,
    after_epoch: Callable[[], Any] = lambda: None,
    before_epoch: Callable[[int, State], Any] = lambda epoch, state: None,
) -> Trained:
    """Trains from the start, or from the last checkpoint.

    Once the loss of an epoch is not finite, no further epoch runs: their rows stay NaN.

    Args:
      steps: what is compiled.
      plan: how to train.
      train_data: images and labels, on the device.
      test_data: the same, to evaluate on.
      checkpoints: a directory for this training alone, which is gone when it is done.
      after_epoch: called after each.
      before_epoch: called with the epoch's number and state before each.
    """
    images, labels = train_data
    if len(labels) < plan.batch_size:
        raise StudyError(
            f"{len(labels)} training images do not fill a batch of {plan.batch_size}; "
            "take a smaller batch or more images."
        )
    state = steps.start(plan.seed)
    history = np.full((plan.epochs, len(COLUMNS)), np.nan, np.float32)
    best = Best.of(state) if plan.protocol == "original" else None
    first, store = 0, None
    if checkpoints is not None and plan.checkpoint_every:
        mesh = steps.mesh or ef_optax.worker_mesh(devices=jax.devices()[:1])
        store = Checkpoints(checkpoints, mesh, keep=1)
        if store.latest is not None:
            first = store.latest
            held = store.restore(jax.eval_shape(lambda: (state, history, best)))
            state, best = held[0], held[2]
            history = np.array(held[1])
    for epoch in range(plan.epochs):
        if epoch < first:
            after_epoch()
            continue
        if best is not None and epoch in plan.drops:
            state = best.resume(state, steps)
        before_epoch(epoch, state)
        started = time.perf_counter()
        state = state._replace(sums=np.zeros(len(SUMMED), np.float32))
        batches, rate = plan.batches(epoch, len(labels)), plan.rate(epoch)
        for batch in batches:
            state = steps.train(state, images, labels, batch, rate)
        row = history[epoch]
        row[: len(SUMMED)] = np.asarray(state.sums) / len(batches)
        row[-1] = time.perf_counter() - started
        after_epoch()
        if not math.isfinite(row[0]):
            history[epoch:, 0] = np.nan
            break
        last = epoch + 1 == plan.epochs
        if last or (epoch + 1) % plan.evaluate_every == 0:
            row[-3:-1] = steps.evaluate(state, *test_data)
            if best is not None:
                best = best.or_(state, row[-2])
        if store is not None and (epoch + 1) % plan.checkpoint_every == 0 and not last:
            store.save(epoch + 1, (state, history, best))
    if store is not None:
        store.close()
    return Trained(state, history)


def forget(checkpoints: pathlib.Path) -> None:
    """Removes the checkpoints of a training whose results are safe."""
    shutil.rmtree(checkpoints, ignore_errors=True)


class Best(NamedTuple):
    """The parameters of the best test accuracy so far."""

    accuracy: Any
    params: Any
    batch_stats: Any

    @staticmethod
    def of(state: State) -> Best:
        """Returns the first: what a training starts with."""
        return Best(np.float32(-1), *_copies(state))

    def or_(self, state: State, accuracy: float) -> Best:
        """Returns the better one."""
        if accuracy <= float(self.accuracy):
            return self
        return Best(np.float32(accuracy), *_copies(state))

    def resume(self, state: State, steps: Steps) -> State:
        """Returns the state of a new optimizer at the best parameters."""
        params, batch_stats = jax.tree.map(
            lambda x: x.copy(), (self.params, self.batch_stats)
        )
        return state._replace(
            params=params, batch_stats=batch_stats, optimizer=steps.fresh(params)
        )


def _copies(state: State) -> Any:
    """Returns copies: the step donates its state."""
    return jax.tree.map(lambda x: x.copy(), (state.params, state.batch_stats))

"""Stochastic gradients along the runs of Figure 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.mnist._config import Batches, Config
from experiments.mnist._gradients import Shape, shape_of, share_apart, share_bimodal
from experiments.mnist._training import Trainer


class Sampled(NamedTuple):
    """Stochastic gradients of the biases at one point of one run of Figure 3.

    Attributes:
      seed: of the run.
      epoch: before which.
      batches: how those were drawn from which the gradients come.
      gradients: [batches, biases], the ten of the outputs last.
      part: of which part of the digits each batch is, 0 or 1; 0 if standard.
      shape: numbers on them.
    """

    seed: int
    epoch: int
    batches: Batches
    gradients: np.ndarray
    part: np.ndarray
    shape: Shape


class Swept(NamedTuple):
    """The same for a learning rate of the search, on split batches.

    Attributes:
      rate: the learning rate.
      seed: of the run.
      epoch: before which, counted on the examples of the search.
      bimodal: share of the biases whose bimodality coefficient is above 5/9.
      apart: share of the biases for which the two parts are more than 2 deviations
        apart.
    """

    rate: float
    seed: int
    epoch: int
    bimodal: float
    apart: float


def sample(
    trainer: Trainer, config: Config, before: list[Any], seed: int
) -> list[Sampled]:
    """Samples gradients at the parameters that a run had before each of the epochs."""
    kinds: tuple[Batches, Batches] = ("split", "standard")
    cell = config.figure_3("signSGD")
    sampled = []
    for epoch, params in zip(config.epochs, before, strict=True):
        for batches in kinds:
            gradients, part = trainer.gradients(
                cell, params, batches, config.gradient_batches, _seed(epoch, seed)
            )
            shape = shape_of(gradients, part)
            sampled.append(Sampled(seed, epoch, batches, gradients, part, shape))
    return sampled


def sweep(
    trainer: Trainer, config: Config, swept: list[Swept]
) -> tuple[list[int], Callable[[tuple[float, ...], int, int, Any], None]]:
    """Returns after which steps to watch a search, and what then notes `swept`."""
    cell = config.figure_3("signSGD")
    epochs = {trainer.epoch(n, cell.batch_size): n for n in config.epochs}

    def watch(rates: tuple[float, ...], seed: int, stop: int, params: Any) -> None:
        for number, rate in enumerate(rates):
            gradients, part = trainer.gradients(
                cell, jax.tree.map(lambda leaf, n=number: leaf[n], params), "split",
                config.gradient_batches, _seed(epochs[stop], seed),
            )
            shape = shape_of(gradients, part)
            swept.append(Swept(
                rate, seed, epochs[stop], share_bimodal(shape), share_apart(shape)
            ))

    return list(epochs), watch


def _seed(epoch: int, seed: int) -> int:
    """Returns a seed for other batches than those that the run itself was made of."""
    return 1000 * epoch + seed

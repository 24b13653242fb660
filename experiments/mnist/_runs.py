"""The runs that count, on all training examples, with the rates that were found."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.mnist._config import Cell, Config
from experiments.mnist._training import Trainer
from experiments.mnist._tuning import Tuned, end


class Run(NamedTuple):
    """One training within one budget.

    Attributes:
      cell: what was trained.
      budget: in megabytes.
      rate: the learning rate.
      seed: of initial values and batches.
      steps: after which it was looked at.
      megabytes: what had been sent by then.
      train_loss: of the first training examples, as all that follows over `steps`.
      train_accuracy: in percent.
      test_accuracy: in percent.
    """

    cell: Cell
    budget: float
    rate: float
    seed: int
    steps: np.ndarray
    megabytes: np.ndarray
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_accuracy: np.ndarray

    def at(self, name: str, looks: int, middle: bool = False) -> float:
        """Returns the mean of something at the end or in the middle of the run."""
        steps = end(int(self.steps[-1]), looks, middle)
        return float(getattr(self, name)[np.searchsorted(self.steps, steps)].mean())


def runs_of(
    trainer: Trainer, cell: Cell, config: Config, tuned: Tuned
) -> tuple[list[Run], dict[int, list[Any]]]:
    """Trains a cell with every seed for each of its budgets.

    Returns:
      The runs; and by seed, if the cell is that of Figure 3, the parameters of its
      longest run before each of the epochs.
    """
    keep = cell == config.figure_3("signSGD")
    runs: list[Run] = []
    kept: dict[int, list[Any]] = {}
    for rate in sorted(set(tuned.best.values())):
        budgets = [b for b in config.budgets_of(cell) if tuned.best[b] == rate]
        stops = {b: _looks(config, trainer, cell, b) for b in budgets}
        epochs: list[int] = []
        if keep and config.long_budget in budgets:
            epochs = [trainer.epoch(n, cell.batch_size) for n in config.epochs]
        everywhere = sorted({*epochs, *itertools.chain(*stops.values())})
        for seed in config.seeds:
            seen, before = {}, {}
            for stop, params in trainer.train(cell, (rate,), everywhere, seed):
                seen[stop] = _look(trainer, cell, params)
                if stop in epochs:
                    before[stop] = jax.tree.map(lambda leaf: leaf[0], params)
            for budget in budgets:
                steps = np.asarray(stops[budget])
                columns = zip(*(seen[stop] for stop in stops[budget]), strict=True)
                runs.append(Run(
                    cell, budget, rate, seed, steps,
                    trainer.megabytes(cell, steps), *map(np.array, columns),
                ))
            if epochs:
                kept[seed] = [before[stop] for stop in epochs]
    return runs, kept


def _look(trainer: Trainer, cell: Cell, params: Any) -> tuple[float, float, float]:
    """Returns training loss, training accuracy and test accuracy of one network."""
    train, test = (trainer.score(cell.width, params, p) for p in ("train", "test"))
    return float(train.loss[0]), float(train.accuracy[0]), float(test.accuracy[0])


def _looks(config: Config, trainer: Trainer, cell: Cell, budget: float) -> list[int]:
    """Returns when to look at a run within a budget."""
    steps = trainer.steps(cell, budget)
    before = [b for b in config.budgets_of(cell) if b <= budget]
    corners = [0, *(trainer.steps(cell, b) for b in before)]
    looks = {
        round(step)
        for first, last in itertools.pairwise(corners)
        for step in np.linspace(first, last, config.points + 1)
    }
    ends = end(steps, config.looks), end(steps, config.looks, middle=True)
    return sorted(looks.union(*ends) - {0})

"""Learning rates: a coarse grid, and a fine one around its best, for every budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from experiments.mnist._config import Cell, Config
from experiments.mnist._training import Trainer

# Is shown rates, seed, a number of steps, and the parameters [rates, ...] after them.
Watch = Callable[[tuple[float, ...], int, int, Any], None]


class Tuned(NamedTuple):
    """The search of one cell.

    Attributes:
      best: the learning rate for each budget.
      scores: validation accuracy in percent at the end of each budget, for each rate
        that was tried for it.
    """

    best: dict[float, float]
    scores: dict[float, dict[float, float]]


def tune(
    trainer: Trainer, cell: Cell, config: Config,
    watched: Iterable[int] = (), watch: Watch | None = None,
) -> Tuned:
    """Searches on the validation part, which the trainer's data test on.

    A constant rate's run within a budget is the beginning of its run within a larger
    one, so that a rate is tried for all budgets at once.

    Args:
      trainer: of the rest of the training examples.
      cell: what to tune.
      config: the configuration.
      watched: after which steps the runs of the largest budget are shown.
      watch: to whom.
    """
    budgets = config.budgets_of(cell)
    scores: dict[float, dict[float, float]] = {budget: {} for budget in budgets}

    def attempt(rates: Iterable[float], largest: float) -> None:
        rates, within = tuple(rates), [b for b in budgets if b <= largest]
        looks = [end(trainer.steps(cell, b), config.looks) for b in within]
        shown = set(watched) if largest == budgets[-1] else set()
        stops = sorted(shown.union(*looks))
        runs = []
        for seed in config.tune_seeds:
            accuracy = {}
            for stop, params in trainer.train(cell, rates, stops, seed):
                accuracy[stop] = trainer.score(cell.width, params, "test").accuracy
                if watch is not None and stop in shown:
                    watch(rates, seed, stop, params)
            runs.append([np.mean([accuracy[s] for s in steps], 0) for steps in looks])
        for budget, values in zip(within, np.mean(runs, axis=0), strict=True):
            scores[budget] |= dict(zip(rates, values.tolist(), strict=True))

    attempt(config.grid_of(cell), budgets[-1])
    # Around every budget's best rate, up to the largest budget that it is best for.
    wanted: dict[float, float] = {}
    for budget in budgets:
        center = best_of(scores[budget])
        for factor in config.fine:
            rate = float(f"{center * factor:.6g}")
            if rate not in scores[budget]:
                wanted[rate] = budget
    for budget in sorted(set(wanted.values())):
        attempt(sorted(r for r in wanted if wanted[r] == budget), budget)
    return Tuned({b: best_of(scores[b]) for b in budgets}, scores)


def best_of(scores: dict[float, float]) -> float:
    """Returns the rate of the highest score; of equals the least."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def end(steps: int, looks: int, middle: bool = False) -> list[int]:
    """Returns steps in the last tenth of a run, or in the tenth around its middle."""
    first, last = (0.45, 0.55) if middle else (0.9, 1.0)
    parts = np.linspace(first, last, looks) if looks > 1 else [0.5 if middle else 1.0]
    return sorted({max(1, round(float(part) * steps)) for part in parts})

"""Learning rates: a coarse grid, and a fine one around its best, for every budget."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from experiments.mnist._config import Cell, Config
from experiments.mnist._training import Trainer


class Tuned(NamedTuple):
    """The search of one cell.

    Attributes:
      best: the learning rate for each budget.
      scores: validation accuracy in percent at the end of each budget, for each rate
        that was tried for it.
    """

    best: dict[float, float]
    scores: dict[float, dict[float, float]]


def tune(trainer: Trainer, cell: Cell, config: Config) -> Tuned:
    """Searches on the validation part, which the trainer's data test on.

    A constant rate's run within a budget is the beginning of its run within a larger
    one, so that a rate is tried for all budgets at once.
    """
    budgets = config.budgets_of(cell)
    scores: dict[float, dict[float, float]] = {budget: {} for budget in budgets}

    def attempt(rates: Iterable[float], largest: float) -> None:
        rates, within = tuple(rates), [b for b in budgets if b <= largest]
        runs = [_ends(trainer, cell, config, rates, within, s)
                for s in config.tune_seeds]
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
    last_step = max(1, round(last * steps))
    return sorted({
        max(1, round(part * steps))
        for part in (np.linspace(first, last, looks) if looks > 1 else [last])
    } | {last_step})


def _ends(
    trainer: Trainer, cell: Cell, config: Config, rates: tuple[float, ...],
    budgets: list[float], seed: int,
) -> np.ndarray:
    """Trains; returns validation accuracies [budgets, rates]."""
    looks = [end(trainer.steps(cell.method, b), config.looks) for b in budgets]
    stops = sorted({stop for steps in looks for stop in steps})
    accuracy = {
        stop: trainer.score(params, "test").accuracy
        for stop, params in trainer.train(cell, rates, stops, seed)
    }
    return np.stack([np.mean([accuracy[s] for s in steps], axis=0) for steps in looks])

"""The study: tuning, training, gradients, and what is written down."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from experiments import data
from experiments._results import Results, progress
from experiments.mnist import _figures, _summary, _verdicts
from experiments.mnist._config import Batches, Cell, Config
from experiments.mnist._gradients import Shape, shape_of
from experiments.mnist._runs import Run, runs_of
from experiments.mnist._training import Trainer
from experiments.mnist._tuning import Tuned, tune


class Sampled(NamedTuple):
    """Stochastic gradients of the biases at one point of one run of Figure 3.

    Attributes:
      seed: of the run.
      epoch: before which.
      batches: how those were drawn from which the gradients come.
      gradients: [batches, biases], the ten of the outputs last.
      shape: numbers on them.
    """

    seed: int
    epoch: int
    batches: Batches
    gradients: np.ndarray
    shape: Shape


class Found(NamedTuple):
    """All that was found.

    Attributes:
      parameters: of the network, by its width.
      tuned: by cell.
      runs: all.
      sampled: all.
    """

    parameters: dict[int, int]
    tuned: dict[Cell, Tuned]
    runs: list[Run]
    sampled: list[Sampled]

    def of(self, cell: Cell, budget: float) -> list[Run]:
        """Returns the runs of a cell within a budget, one a seed."""
        return [run for run in self.runs if (run.cell, run.budget) == (cell, budget)]


def run(config: Config) -> Found:
    """Tunes, trains, and looks at gradients; writes files, returns what it found."""
    loaded = data.load(config.data, config.data_dir, config.split_seed)
    held = data.hold_out(loaded, config.validation, config.split_seed)
    final, tuning = data.standardize(loaded), data.standardize(held)
    trainers = {w: Trainer(config, w, final) for w in config.widths}
    tuners = {w: Trainer(config, w, tuning) for w in config.widths}
    found = Found({w: t.parameters for w, t in trainers.items()}, {}, [], [])
    cells = config.cells()
    for cell in cells:
        for budget in config.budgets_of(cell):
            trainers[cell.width].steps(cell.method, budget)
    results = Results(config.results, "mnist", config)
    with progress(len(cells), unit="setting") as bar:
        for cell in cells:
            name = f"{cell.method}, {cell.batches}, {cell.batch_size}, {cell.width}"
            bar.set_description(f"{name}: tuning")
            tuned = tune(tuners[cell.width], cell, config)
            found.tuned[cell] = tuned
            results.metric(
                what="tuning", **cell._asdict(), best=_named(tuned.best),
                scores={f"{b:g}": _named(s) for b, s in tuned.scores.items()},
            )
            bar.set_description(f"{name}: training")
            runs, kept = runs_of(trainers[cell.width], cell, config, tuned)
            found.runs.extend(runs)
            for one in runs:
                results.metric(what="run", **one.cell._asdict(), **{
                    key: value for key, value in one._asdict().items() if key != "cell"
                })
            for seed, before in kept.items():
                found.sampled.extend(
                    _sample(trainers[cell.width], config, before, seed, results)
                )
            bar.update()
    results.figure(_figures.split_batches(config, found))
    results.figure(_figures.batch_sizes(config, found), "batches")
    results.figure(_figures.gradients(config, found), "gradients")
    for key, judged in _verdicts.judge(config, found).items():
        results.verdict(key, *judged)
    results.finish(_summary.text(config, final, found))
    return found


def _sample(
    trainer: Trainer, config: Config, before: list[Any], seed: int, results: Results
) -> list[Sampled]:
    """Samples gradients of the run of one seed before each of the epochs."""
    sampled = []
    for epoch, params in zip(config.epochs, before, strict=True):
        kinds: tuple[Batches, Batches] = ("split", "standard")
        for batches in kinds:
            gradients, part = trainer.gradients(
                params, batches, config.batch_size, config.gradient_batches,
                # Not the batches that the run itself was made of.
                seed=1000 * epoch + seed,
            )
            shape = shape_of(gradients, part)
            sampled.append(Sampled(seed, epoch, batches, gradients, shape))
            results.metric(
                what="gradients", seed=seed, epoch=epoch, batches=batches,
                **shape._asdict(),
            )
    return sampled


def _named(values: dict[float, float]) -> dict[str, float]:
    return {f"{key:g}": value for key, value in values.items()}

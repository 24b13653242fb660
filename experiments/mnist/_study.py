"""The study: tuning, training, gradients, and what is written down."""

from __future__ import annotations

from typing import Any, NamedTuple

from experiments import data
from experiments._results import Results, progress
from experiments.mnist import _figures, _summary, _verdicts
from experiments.mnist._config import Cell, Config
from experiments.mnist._runs import Run, runs_of
from experiments.mnist._sampling import Sampled, Swept, sample, sweep
from experiments.mnist._training import Trainer
from experiments.mnist._tuning import Tuned, tune


class Found(NamedTuple):
    """All that was found.

    Attributes:
      examples: how many to train and to test on.
      parameters: of the network, by its width.
      tuned: by cell.
      runs: all.
      sampled: gradients along the long runs of Figure 3.
      swept: the same along the runs of its search.
    """

    examples: tuple[int, int]
    parameters: dict[int, int]
    tuned: dict[Cell, Tuned]
    runs: list[Run]
    sampled: list[Sampled]
    swept: list[Swept]

    def of(self, cell: Cell, budget: float) -> list[Run]:
        """Returns the runs of a cell within a budget, one a seed."""
        return [run for run in self.runs if (run.cell, run.budget) == (cell, budget)]


def run(config: Config) -> Found:
    """Tunes, trains, and looks at gradients; writes files, returns what it found."""
    loaded = data.load(config.data, config.data_dir, config.split_seed)
    held = data.hold_out(loaded, config.validation, config.split_seed)
    trainer = Trainer(config, data.standardize(loaded))
    tuner = Trainer(config, data.standardize(held))
    examples = len(loaded.y_train), len(loaded.y_test)
    parameters = {width: task.parameters for width, task in trainer.tasks.items()}
    found = Found(examples, parameters, {}, [], [], [])
    cells = config.cells()
    for cell in cells:
        for budget in config.budgets_of(cell):
            trainer.steps(cell, budget)
    results = Results(config.results, "mnist", config)
    with progress(len(cells), unit="setting") as bar:
        for cell in cells:
            name = f"{cell.method}, {cell.batches}, {cell.batch_size}, {cell.width}"
            bar.set_description(f"{name}: tuning")
            watching: Any = ()
            if cell == config.figure_3("signSGD"):
                watching = sweep(tuner, config, found.swept)
            tuned = tune(tuner, cell, config, *watching)
            found.tuned[cell] = tuned
            bar.set_description(f"{name}: training")
            runs, kept = runs_of(trainer, cell, config, tuned)
            found.runs.extend(runs)
            _record(results, tuned, runs)
            for seed, before in kept.items():
                found.sampled.extend(sample(trainer, config, before, seed))
            bar.update()
    for one in found.sampled:
        results.metric(what="gradients", seed=one.seed, epoch=one.epoch,
                       batches=one.batches, **one.shape._asdict())
    for other in found.swept:
        results.metric(what="sweep", **other._asdict())
    results.figure(_figures.split_batches(config, found))
    results.figure(_figures.batch_sizes(config, found), "batches")
    results.figure(_figures.gradients(config, found), "gradients")
    for key, judged in _verdicts.judge(config, found).items():
        results.verdict(key, *judged)
    results.finish(_summary.text(config, found))
    return found


def _record(results: Results, tuned: Tuned, runs: list[Run]) -> None:
    """Writes a cell's lines of metrics.jsonl."""
    cell = runs[0].cell._asdict()
    scores = {f"{budget:g}": _named(s) for budget, s in tuned.scores.items()}
    results.metric(what="tuning", **cell, best=_named(tuned.best), scores=scores)
    for one in runs:
        rest = {name: v for name, v in one._asdict().items() if name != "cell"}
        results.metric(what="run", **cell, **rest)


def _named(values: dict[float, float]) -> dict[str, float]:
    return {f"{key:g}": value for key, value in values.items()}

"""Many trainings of one study: resumable, and shared among processes."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._results import Results
from experiments.cifar._recipe import Recipe, hold_out, on_device
from experiments.cifar._resume import each
from experiments.cifar._training import COLUMNS, forget, train


class Job(NamedTuple):
    """One training of a study."""

    algorithm: str
    batch_size: int
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its checkpoints."""
        return "_".join(
            [self.algorithm, str(self.batch_size), f"{self.learning_rate:g}",
             str(self.seed)]
        )


class Ended(NamedTuple):
    """A training that has ended; what is not finite is NaN."""

    job: Job
    columns: dict[str, np.ndarray]
    guessing: float

    @property
    def diverged(self) -> bool:
        """Whether it ended in numbers that are not finite."""
        return not np.isfinite(self.columns["train_loss"][-1])

    def last(self, name: str) -> float:
        """Returns the last measured value; guessing's accuracy if it diverged."""
        if self.diverged:
            return self.guessing if name.endswith("accuracy") else float("nan")
        values = self.columns[name]
        return float(values[np.isfinite(values)][-1])

    def mean(self, name: str) -> float:
        """Returns the mean of what was measured, NaN if nothing was."""
        values = self.columns[name]
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else float("nan")

    def best(self, name: str) -> float:
        """Returns the greatest measured value, of the original protocol."""
        values = self.columns[name]
        values = values[np.isfinite(values)]
        return float(values.max()) if len(values) else self.guessing


def run_all(
    recipe: Recipe, results: Results, jobs: Sequence[Job], part: str = "0/1",
    validation: int = 0,
) -> list[Ended]:
    """Runs those trainings that an earlier run has not ended; returns all.

    Args:
      recipe: of all of them.
      results: opened with ``resume=True``; a line of metrics for each training.
      jobs: what to train, in this order.
      part: "i/n" trains only each n-th, from the i-th on: n processes share the work.
      validation: how many training images to hold out and to test on instead.

    Raises:
      StudyError: if others of the `n` processes have not ended theirs.
    """
    prepared: list[Any] = []

    def prepare() -> None:
        images = recipe.load()
        steps = {name: recipe.steps(name, images.classes)
                 for name in dict.fromkeys(job.algorithm for job in jobs)}
        used = hold_out(images, validation) if validation else images
        prepared.extend([steps, *on_device(used), 100 / images.classes])

    def run(job: Job, tick: Callable[[], Any]) -> dict[str, Any]:
        if not prepared:
            prepare()
        steps, train_data, test_data, guessing = prepared
        trained = train(
            steps[job.algorithm],
            recipe.plan(job.batch_size, job.learning_rate, job.seed),
            train_data, test_data, folder_of(job), tick,
        )
        columns = {name: trained.column(name) for name in COLUMNS}
        return {"guessing": guessing} | columns

    def folder_of(job: Job) -> pathlib.Path:
        return results.path / "checkpoints" / job.name

    lines = each(
        results, jobs, part, run, recipe.epochs,
        after=lambda job: forget(folder_of(job)), noun="training",
    )
    return [_ended(job, lines[job]) for job in jobs]


def groups(ended: Sequence[Ended]) -> Iterator[tuple[tuple[str, int], list[Ended]]]:
    """Yields the trainings of each algorithm and batch size."""
    found: dict[tuple[str, int], list[Ended]] = {}
    for one in ended:
        found.setdefault((one.job.algorithm, one.job.batch_size), []).append(one)
    yield from found.items()


def _ended(job: Job, line: dict[str, Any]) -> Ended:
    columns = {name: np.array(line[name], float) for name in COLUMNS}
    return Ended(job, columns, line["guessing"])

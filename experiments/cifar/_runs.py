"""Many trainings of one study: resumable, and shared among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._registry import StudyError
from experiments._results import Results, progress
from experiments.cifar._recipe import Recipe, hold_out, on_device
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
    number, count = read_part(part)
    done = {_job(record): _ended(record) for record in results.records}
    open_ = [job for i, job in enumerate(jobs)
             if job not in done and i % count == number]
    if open_:
        images = recipe.load()
        classes = images.classes
        if validation:
            images = hold_out(images, validation)
        train_data, test_data = on_device(images)
        steps = {name: recipe.steps(name, classes)
                 for name in dict.fromkeys(job.algorithm for job in open_)}
        with progress(len(open_) * recipe.epochs) as bar:
            for job in open_:
                bar.set_description(job.name)
                folder = results.path / "checkpoints" / job.name
                trained = train(
                    steps[job.algorithm],
                    recipe.plan(job.batch_size, job.learning_rate, job.seed),
                    train_data, test_data, folder, bar.update,
                )
                record = job._asdict() | {"guessing": 100 / classes} | {
                    name: trained.column(name) for name in COLUMNS
                }
                results.metric(**record)
                forget(folder)
                done[job] = _ended(record)
    missing = [job.name for job in jobs if job not in done]
    if missing:
        raise StudyError(
            f"{len(missing)} of {len(jobs)} trainings are not done here, such as "
            f"{missing[0]}: when all parts have ended, run it without --part."
        )
    return [done[job] for job in jobs]


def groups(ended: Sequence[Ended]) -> Iterator[tuple[tuple[str, int], list[Ended]]]:
    """Yields the trainings of each algorithm and batch size."""
    found: dict[tuple[str, int], list[Ended]] = {}
    for one in ended:
        found.setdefault((one.job.algorithm, one.job.batch_size), []).append(one)
    yield from found.items()


def read_part(part: str) -> tuple[int, int]:
    """Reads "i/n".

    Raises:
      ValueError: if it is not that.
    """
    number, _, count = part.partition("/")
    if number.isdecimal() and count.isdecimal() and int(number) < int(count):
        return int(number), int(count)
    raise ValueError(f"part must be i/n with i from 0 to n - 1; got {part!r}.")


def _job(record: dict[str, Any]) -> Job:
    return Job(*(record[name] for name in Job._fields))


def _ended(record: dict[str, Any]) -> Ended:
    columns = {name: np.array(record[name], float) for name in COLUMNS}
    return Ended(_job(record), columns, record["guessing"])

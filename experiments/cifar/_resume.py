"""Jobs of any kind, each a line of metrics: resumable, and shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from experiments._registry import StudyError
from experiments._results import Results, progress

J = TypeVar("J", bound=tuple)  # Named tuples, whose fields are in the lines.


def each(
    results: Results,
    jobs: Sequence[J],
    part: str,
    run: Callable[[J, Callable[[], Any]], dict[str, Any]],
    ticks: int = 1,
    after: Callable[[J], Any] = lambda job: None,
    noun: str = "job",
) -> dict[J, dict[str, Any]]:
    """Runs those jobs that an earlier run has not ended; returns all their lines.

    Args:
      results: opened with ``resume=True``; a line of metrics for each job.
      jobs: what to do, in this order.
      part: "i/n" runs only each n-th, from the i-th on: n processes share the work.
      run: from a job, and what it calls after each of its ticks, to the values of its
        line beside those of the job itself.
      ticks: how many there are in a job.
      after: called when a job's line is written.
      noun: what the error calls a job.

    Raises:
      StudyError: if others of the `n` processes have not ended theirs.
    """
    number, count = read_part(part)
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for job in jobs[:1]:
        names = job._fields  # type: ignore[attr-defined]
        lines = {tuple(r.get(name) for name in names): r for r in results.records}
    done = {job: lines[job] for job in jobs if job in lines}
    open_ = [job for i, job in enumerate(jobs)
             if job not in done and i % count == number]
    if open_:
        with progress(len(open_) * ticks) as bar:
            for job in open_:
                bar.set_description(" ".join(map(str, job)))
                named = job._asdict()  # type: ignore[attr-defined]
                done[job] = named | run(job, bar.update)
                results.metric(**done[job])
                after(job)
    missing = [job for job in jobs if job not in done]
    if missing:
        raise StudyError(
            f"{len(missing)} of {len(jobs)} {noun}s are not done here, such as "
            f"{' '.join(map(str, missing[0]))}: when all parts have ended, run it "
            "without --part."
        )
    return {job: done[job] for job in jobs}


def read_part(part: str) -> tuple[int, int]:
    """Reads "i/n".

    Raises:
      ValueError: if it is not that.
    """
    number, _, count = part.partition("/")
    if number.isdecimal() and count.isdecimal() and int(number) < int(count):
        return int(number), int(count)
    raise ValueError(f"part must be i/n with i from 0 to n - 1; got {part!r}.")

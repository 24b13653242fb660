"""Over-parameterised least squares: which of the solutions a method finds.

Figure 3, Theorem IV, Remark 10, Lemma 9 and appendix A.6 of Karimireddy et al., with
the data of Wilson et al. `python -m experiments least_squares`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from experiments._results import Results, progress
from experiments.toys.least_squares import _figures, _verdicts
from experiments.toys.least_squares._config import Config
from experiments.toys.least_squares._runs import Course, Tuned, courses, methods, tune

__all__ = ["Config", "Measured", "run"]


class Measured(NamedTuple):
    """What was measured of one method."""

    tuned: Tuned
    course: Course


def run(config: Config) -> dict[str, Measured]:
    """Tunes and runs every method in double precision."""
    results = Results(config.results, "least_squares", config)
    makes = methods(config)
    with progress(len(makes) + 1, "run") as bar, jax.enable_x64(True):
        tuned: dict[str, Tuned | None] = {}
        for name, make in makes.items():
            bar.set_description(name)
            tuned[name] = tune(make, config) if len(config.grid) > 1 else None
            bar.update()
        rates = {
            name: config.grid[0] if found is None else found.best
            for name, found in tuned.items()
        }
        seen = courses(rates, config)
        bar.update()
    measured = {
        name: Measured(found or _only(seen[name], rates[name]), seen[name])
        for name, found in tuned.items()
    }
    for name, (grid, course) in measured.items():
        results.metric(
            method=name, learning_rate=grid.best, grid=config.grid,
            grid_train=grid.train, grid_test=grid.test,
        )
        for i in range(config.repeats):
            results.metric(
                method=name, learning_rate=grid.best, repeat=i,
                **{key: values[i, -1] for key, values in course._asdict().items()},
                largest_span=course.span[i].max(), least_test=course.test[i].min(),
            )
    results.figure(_figures.figure(config, measured))
    _verdicts.give(results, config, measured)
    results.finish(_verdicts.text(config, measured))
    return measured


def _only(course: Course, rate: float) -> Tuned:
    """Returns the grid of one learning rate, where there was nothing to choose."""
    return Tuned(rate, course.train[:, -1:].mean(0), course.test[:, -1:].mean(0))

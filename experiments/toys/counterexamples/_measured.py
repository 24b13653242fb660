"""All that the study measures, and the numbers that its criteria ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import ef_optax
from experiments.toys.counterexamples import _geometry, _runs
from experiments.toys.counterexamples._config import Config
from experiments.toys.counterexamples._runs import METHODS, SEARCHES, Away, Points

OFF_AXIS = _runs.STARTS[1:2]
ON_3 = ("signSGD", "scaled signSGD", "SGD", "EF-signSGD")
LINEAR = ("signSGD", "SGD", "EF-signSGD")


class Measured(NamedTuple):
    """All that was measured.

    Attributes:
      example_1: by method, see `_runs.example_1`.
      figure_1: the directions of Figure 1.
      cones: by ε.
      paths: of the figure, by method.
      on_2: counterexample 2, by method or search.
      on_3: counterexample 3, by method or search.
      anywhere: counterexample 3 from random points of the line.
      zeros: signSGD on counterexample 2, by starts and rules for sign(0).
      momentum: by β, counterexamples 2 and 3.
      votes: by number of workers and tie.
      theorem_1: by dimension and method.
    """

    example_1: dict[str, dict[str, np.ndarray]]
    figure_1: _geometry.Figure1
    cones: dict[float, _geometry.Cone]
    paths: dict[str, np.ndarray]
    on_2: dict[str, Points]
    on_3: dict[str, Points]
    anywhere: Points
    zeros: Points
    momentum: dict[float, tuple[Points, Points]]
    votes: dict[tuple[int, str], Points]
    theorem_1: dict[tuple[int, str], Away]


def pieces(config: Config) -> int:
    """Returns how many pieces of work there are."""
    return 10 + len(config.workers) + len(config.dimensions)


def measure(config: Config, done: Callable[[], Any]) -> Measured:
    """Runs everything; `done` is called after each piece."""

    def step(value: Any) -> Any:
        done()
        return value

    def signum(beta: float) -> Any:
        return lambda rate: ef_optax.signum(rate, beta)

    methods = list(METHODS.values())
    one = {k: v for k, v in METHODS.items() if "top-1" not in k}
    one["Signum"] = signum(config.beta)
    slopes, paths = step(_runs.example_1(list(one.values()), config))

    every_2 = step(_runs.example_2(methods, config, _runs.STARTS, _runs.ZEROS))
    # The last is signSGD again, from anywhere on the line.
    on_3 = [METHODS[name] for name in (*ON_3, "signSGD")]
    starts = (*_runs.STARTS[:1] * len(ON_3), _runs.anywhere(config))
    every_3 = step(_runs.example_3(on_3, config, starts))

    searches = list(SEARCHES.values())
    search_2 = step(_runs.example_2(searches, config, OFF_AXIS))
    search_3 = step(_runs.example_3(searches, config, OFF_AXIS * len(searches)))

    signums = [signum(beta) for beta in config.betas]
    momentum_2, momentum_3 = (
        step(example(signums, config, epsilons=config.momentum_epsilons))
        for example in (_runs.example_2, _runs.example_3)
    )
    theorem_1 = {
        d: step(_runs.theorem_1([METHODS[name] for name in LINEAR], config, d))
        for d in config.dimensions
    }
    votes = {workers: step(_runs.votes(config, workers)) for workers in config.workers}
    return Measured(
        example_1={
            name: {"slope": slopes[i], "path": paths[i]} for i, name in enumerate(one)
        },
        figure_1=step(_geometry.figure_1(config)),
        cones=step(_geometry.cones(config)),
        paths=step(_geometry.paths(config)),
        on_2={name: plain(every_2.at(i)) for i, name in enumerate(METHODS)}
        | {name: plain(search_2.at(i)) for i, name in enumerate(SEARCHES)},
        on_3={name: every_3.at(i) for i, name in enumerate(ON_3)}
        | {name: search_3.at(i) for i, name in enumerate(SEARCHES)},
        anywhere=every_3.at(-1),
        zeros=every_2.at(list(METHODS).index("signSGD")),
        momentum={
            beta: (plain(momentum_2.at(i)), momentum_3.at(i))
            for i, beta in enumerate(config.betas)
        },
        votes={
            (workers, tie): points.at(i, 0)
            for workers, points in votes.items() for i, tie in enumerate(_runs.TIES)
        },
        theorem_1={
            (d, name): away.at(i)
            for d, away in theorem_1.items() for i, name in enumerate(LINEAR)
        },
    )


def plain(points: Points) -> Points:
    """Returns the runs of counterexample 2 from the first start, with sign(0) = +1.

    Their axes are epsilons, schedules, and one instead of repeats.
    """
    return points.at(slice(None), slice(None), slice(0, 1), 0)


def stuck(points: Points, config: Config) -> bool:
    """Returns whether all runs stayed on the line, and above its least loss."""
    lowest = points.least.min()
    return bool(
        points.drift.max() <= config.tolerance and lowest >= 1 - config.tolerance
    )


def on_line(points: Points, config: Config) -> np.ndarray:
    """Returns which runs stayed on the line."""
    return points.drift <= config.tolerance


def best(points: Points) -> np.ndarray:
    """Returns, by ε, the last loss under the best schedule, in the worst repeat."""
    return points.last.max(2).min(1)


def best_distance(away: Away) -> float:
    """Returns the last distance under the best schedule, in the worst repeat and loss.

    A schedule is chosen for each loss.
    """
    return float(away.distance[..., -1].max(2).min(1).max())


def mean_distance(away: Away) -> float:
    """Returns the last distance under the best schedule, the mean of the rest."""
    return float(away.distance[..., -1].mean((0, 2)).min())

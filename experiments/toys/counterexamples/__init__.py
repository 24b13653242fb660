"""Counterexamples: problems on which signSGD cannot converge, and error feedback can.

Counterexamples 1 to 3, Figure 1 and Theorem I of Karimireddy et al.; section 2.2 of
Safaryan and Richtárik. `python -m experiments counterexamples`.
"""

from __future__ import annotations

import jax
import numpy as np

from experiments._results import Results, progress
from experiments.toys.counterexamples import (
    _figures,
    _measured,
    _problems,
    _runs,
    _verdicts,
)
from experiments.toys.counterexamples._config import Config
from experiments.toys.counterexamples._measured import Measured, on_line

__all__ = ["Config", "run"]


def run(config: Config) -> Measured:
    """Runs everything in double precision; returns all that was measured."""
    results = Results(config.results, "counterexamples", config)
    with progress(_measured.pieces(config), "run") as bar, jax.enable_x64(True):
        measured = _measured.measure(config, lambda: bar.update())
    _metrics(results, config, measured)
    results.figure(_figures.courses(config, measured))
    results.figure(_figures.geometry(config, measured), "geometry")
    _verdicts.give(results, config, measured)
    results.finish(_text(config) + "\n\n" + _verdicts.tables(config, measured))
    return measured


def _text(config: Config) -> str:
    epsilons = ", ".join(f"{e:g}" for e in config.epsilons)
    return (
        "Where signSGD cannot converge: counterexamples 1 (CE1), 2 (CE2) and 3 (CE3) "
        "of Karimireddy et al., of which Safaryan and Richtárik discuss the last, and "
        "Theorem I.\n\n"
        f"Step sizes: {', '.join(config.schedules)} (random: log-uniform from 0.001 "
        f"to 1 at each step); {config.steps} steps; {config.repeats} repeats of what "
        f"is random; ε = {epsilons}; all in double precision. Option 2 takes a step "
        "only if it lowers f; the line search halves its step until Armijo's condition "
        "holds; both start in (1.5, 0.5), as from (1, 1), where f is least on the "
        "line, no step is taken. The subgradient of CE2 has sign(0) = +1. S & R put a "
        "factor 1/2 before CE3's f; nothing here depends on it. Theorem I is run on "
        "random problems with x* unique: rows a_i of length 1, "
        f"{config.points} a dimension, |N(0, 1)| entries times ±s; l(z) = z²/2 and "
        "log cosh z. A run that diverges counts up to its last finite point. In the "
        "figures what is below 1e-8 is drawn there."
    )


def _metrics(results: Results, config: Config, m: Measured) -> None:
    for name, values in m.example_1.items():
        for rate, path in zip(config.fixed, values["path"], strict=True):
            results.metric(
                part="example_1", method=name, step_size=rate,
                slope=values["slope"],
                f=path[:, config.steps // 2:].mean(-1) / 4,
            )
    results.metric(part="figure_1", **m.figure_1._asdict())
    for epsilon, cone in m.cones.items():
        results.metric(part="cone", epsilon=epsilon, **cone._asdict())
    groups = [
        *(("example_2", name, config.epsilons, p) for name, p in m.on_2.items()),
        *(("example_3", name, config.epsilons, p) for name, p in m.on_3.items()),
        ("example_3, random start", "signSGD", config.epsilons, m.anywhere),
        *((f"example_{2 + i}", f"Signum, beta {beta:g}", config.momentum_epsilons, p)
          for beta, both in m.momentum.items() for i, p in enumerate(both)),
    ]
    for part, name, epsilons, points in groups:
        for i, epsilon in enumerate(epsilons):
            for j, schedule in enumerate(config.schedules[:points.drift.shape[1]]):
                results.metric(
                    part=part, method=name, epsilon=epsilon, schedule=schedule,
                    drift=points.drift[i, j], least=points.least[i, j],
                    last=points.last[i, j],
                )
    for (i, j, k, n), drift in np.ndenumerate(m.zeros.drift):
        results.metric(
            part="sign(0)", epsilon=config.epsilons[i], schedule=config.schedules[j],
            start=_runs.STARTS[k], zero=_runs.ZEROS[n], drift=drift,
        )
    for (workers, tie), points in m.votes.items():
        for schedule, drift in zip(config.schedules, points.drift, strict=True):
            results.metric(
                part="votes", workers=workers, tie=tie, schedule=schedule, drift=drift,
                on_line=on_line(points, config).mean(),
            )
    for (dimension, name), away in m.theorem_1.items():
        for (i, j), _ in np.ndenumerate(away.across[..., 0]):
            results.metric(
                part="theorem_1", dimension=dimension, method=name,
                loss=_problems.LOSSES[i], schedule=config.schedules[j],
                across=away.across[i, j], last=away.distance[i, j, :, -1],
                floor=away.floor[i, j],
            )

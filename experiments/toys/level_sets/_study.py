"""Measures level sets and unit balls, judges and draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments._results import Results, table
from experiments.toys.level_sets._config import Config
from experiments.toys.level_sets._figures import level_sets_of, unit_balls_of
from experiments.toys.level_sets._shapes import (
    Shape,
    level_at,
    measure,
    norms,
    worst_ratios,
)


def run(config: Config) -> dict[str, list[Shape]]:
    """Measures and draws level sets and unit balls."""
    results = Results(config.results, "level_sets", config)
    sets = [
        measure(level_at(scale, config.sigma), config.sigma, config.directions)
        for scale in config.scales
    ]
    balls = [measure(1.0, noise, config.directions) for noise in config.noises]
    for scale, shape in zip(config.scales, sets, strict=True):
        results.metric(part="level sets", scale=scale, **shape._asdict())
    for noise, shape in zip(config.noises, balls, strict=True):
        results.metric(part="unit balls", sigma=noise, **shape._asdict())
    _judge_sets(results, config, sets)
    _judge_points(results, config)
    _judge_balls(results, config, balls)
    results.figure(level_sets_of(config, sets))
    results.figure(unit_balls_of(config, balls), "unit_balls")
    rows = [
        [f"{what} {number:g}", f"{s.radii[0]:.4g}", f"{s.circle:.4f}",
         f"{s.diamond:.4f}"]
        for what, numbers, shapes in (
            ("level set, distance", config.scales, sets),
            ("unit ball, sigma", config.noises, balls),
        )
        for number, s in zip(numbers, shapes, strict=True)
    ]
    results.finish(
        f"The l^(1,2) norm in the plane. Level sets at sigma={config.sigma:g} through "
        "a point of the axis at so many distances from 0 (the paper's four are not "
        "stated), and unit balls. Distances are the greatest of all directions, "
        "relative, to the circle and to the diamond through the same point of the "
        f"axis; circle and diamond are {1 - 0.5**0.5:.3f} from each other, relative "
        "to the circle.\n\n"
        + table(["", "radius on the axis", "to circle", "to diamond"], rows)
    )
    return {"sets": sets, "balls": balls}


def _say(results: Results, key: str, holds: Any, number: str, why: str) -> None:
    """Records a verdict; `why` is of one that does not hold."""
    results.verdict(key, holds, number, "" if holds else why)


def _join(numbers: Sequence[float]) -> str:
    return ", ".join(f"{n:.4f}" for n in numbers)


def _judge_sets(results: Results, config: Config, sets: list[Shape]) -> None:
    circles, diamonds = [s.circle for s in sets], [s.diamond for s in sets]
    why = "the scales are not far enough apart"
    _say(
        results, "fig1_near", circles[0] <= config.close < diamonds[0],
        f"{circles[0]:.4f} from a circle and {diamonds[0]:.4f} from a diamond", why,
    )
    _say(
        results, "fig1_far", diamonds[-1] <= config.close < circles[-1],
        f"{diamonds[-1]:.4f} from a diamond and {circles[-1]:.4f} from a circle", why,
    )
    _say(
        results, "fig1_between",
        all(np.diff(circles) > 0) and all(np.diff(diamonds) < 0),
        f"from a circle {_join(circles)}, from a diamond {_join(diamonds)}", why,
    )


def _judge_points(results: Results, config: Config) -> None:
    worst, printed, where = worst_ratios(config)
    _say(
        results, "equivalences", max(worst) <= 1 + config.rounding,
        "greatest ratio of a lower to its upper side "
        + ", ".join(f"{w:.6f}" for w in worst),
        "one of the inequalities fails by more than rounding",
    )
    _say(
        results, "equivalences_printed", max(printed) <= 1 + config.rounding,
        "greatest ratio of a lower to its upper side "
        + ", ".join(f"{w:.3g}" for w in printed),
        "both lower bounds hold, but both upper bounds need sigma_i = c|g_i| + c', not "
        "at most: with less noise the norm is larger, up to the l1 norm without any. "
        f"The worst point is {where}",
    )
    rng = np.random.default_rng([config.seed, 1])
    a, b = rng.standard_normal((2, config.samples, 2)).astype(np.float32)
    sigma = np.full(config.samples, config.sigma, np.float32)
    of_a, of_b, of_sum, of_larger = (
        np.asarray(norms(g, sigma)) for g in (a, b, a + b, np.abs(a) + np.abs(b))
    )
    broken = float((of_sum > of_a + of_b).mean())
    ordered = bool(np.all(of_larger >= of_a)) and bool(np.all(of_a > 0))
    _say(
        results, "not_a_norm", ordered and broken > 0,
        f"{100 * broken:.1f}% of pairs violate the triangle inequality; "
        f"{'all' if ordered else 'not all'} norms are positive and in order",
        "too few points to find a violation, or a fault of the norm",
    )


def _judge_balls(results: Results, config: Config, balls: list[Shape]) -> None:
    grows = bool(np.all(np.diff([b.radii for b in balls], axis=0) > 0))
    _say(
        results, "fig7",
        balls[0].diamond <= config.rounding and grows
        and balls[-1].circle <= config.disc,
        f"{balls[0].diamond:.1g} from the diamond without noise, "
        f"{balls[-1].circle:.4f} from a circle at sigma={config.noises[-1]:g}; "
        f"{'grows' if grows else 'does not grow'} in every direction",
        "the largest noise is not large enough beside 1",
    )

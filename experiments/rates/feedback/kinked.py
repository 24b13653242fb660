"""Theorem III and Remark 6 of Karimireddy et al. on a function with kinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import ef_optax
from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.feedback.algorithms import compressors
from experiments.rates.problems import Problem, creases
from experiments.rates.simulate import Simulation, Step


def kinked_problem(config: Any) -> Problem:
    """Counterexample 2, many times side by side."""
    return creases(config.pairs, config.epsilon, 1.0)


def kinked(
    config: Any, tick: Callable[[str], Any]
) -> tuple[list[Curve], list[Curve], dict[str, float]]:
    """Runs on the creases: f(x̄_T) - f* at fixed γ, at Remark 6's, and as printed."""
    problem, at = kinked_problem(config), np.asarray(config.creases_horizons)
    d = 2 * config.pairs
    fixed, best, printed = [], [], {"Theorem III": 0.0, "Remark 6": 0.0}
    named = compressors(config.kept_creases, d)
    quiet = f"top-{config.kept_creases[-1]}"

    def value(step: Step) -> dict[str, jax.Array]:
        return {"value": problem.value(step.average) - problem.minimum}

    for name, (delta, make) in named.items():
        tick(f"creases, {name}")
        noisy = Simulation(problem, make, value, config.seeds)
        cases = [(name, noisy, config.creases_noise)]
        if name == quiet:
            alone = Simulation(problem, make, value, 1)
            cases.append((f"{name}, no noise", alone, 0.0))
        for label, simulation, scale in cases:
            constants = delta, problem.distance, problem.second_moment(scale)
            rate = config.creases_rate
            reached = simulation.run(max(at), rate, scale=scale)["value"][at - 1].T
            fixed.append(Curve(
                label, at, reached, bounds.feedback_convex(at, rate, *constants)
            ))
            loose = bounds.feedback_convex(at, rate, *constants, printed=True)
            printed["Theorem III"] = max(printed["Theorem III"], _most(reached, loose))
            rates = bounds.best_rate_convex(at, *constants)
            reached = np.stack([
                simulation.run(n, rate, scale=scale)["value"][-1]
                for n, rate in zip(at, rates, strict=True)
            ], axis=1)
            best.append(Curve(
                label, at, reached, bounds.feedback_convex_best(at, *constants),
                at**-0.5, config.fit_from,
            ))
            loose = bounds.feedback_convex_best(at, *constants, printed=True)
            printed["Remark 6"] = max(printed["Remark 6"], _most(reached, loose))
    return fixed, best, printed


def stuck(config: Any) -> Curve:
    """Scaled signs without feedback on the creases, which Theorem III excludes."""
    problem, at = kinked_problem(config), np.asarray(config.creases_horizons)
    simulation = Simulation(
        problem, lambda rate, key: ef_optax.scaled_sign_sgd(rate),
        lambda s: {"value": problem.value(s.average)}, 1,
    )
    rate = config.creases_rate
    reached = simulation.run(max(at), rate, scale=0.0)["value"][at - 1].T
    bound = bounds.feedback_convex(
        at, rate, 1 / (2 * config.pairs), problem.distance, problem.second_moment(0.0),
    )
    return Curve("scaled sign without feedback, no noise", at, reached, bound)


def _most(runs: np.ndarray, bound: Any) -> float:
    return float((runs.mean(0) / bound).max())

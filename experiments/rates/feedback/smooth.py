"""Theorem II and Remarks 4 and 5 of Karimireddy et al. on a smooth function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.feedback.algorithms import SGD, compressors, without_feedback
from experiments.rates.problems import Problem, ripples
from experiments.rates.simulate import Make, Simulation, prefix_means


def smooth_problem(config: Any) -> Problem:
    """The ripples: not convex, and with a bounded gradient."""
    return ripples(np.linspace(0.5, 1.0, config.dimension), config.start)


class Smooth:
    """What ran on the ripples: the mean of ‖∇f‖² over the first T + 1 points."""

    def __init__(self, config: Any, tick: Callable[[str], Any]):
        self.config, self.problem = config, smooth_problem(config)
        d = config.dimension
        self.delta = {k: v[0] for k, v in compressors(config.kept, d).items()}
        # f(x₀) - f*, L and σ².
        self.constants = (
            self.problem.gap, float(self.problem.smooth.max()),
            self.problem.second_moment(config.noise),
        )
        self.fixed: dict[tuple[str, float], np.ndarray] = {}
        self.falling: dict[str, np.ndarray] = {}
        made = {k: v[1] for k, v in compressors(config.kept, d).items()}
        shown = (SGD, f"top-{config.kept[-1]}", f"random-{config.kept[-1]}",
                 "scaled sign")
        for name, make in made.items():
            tick(f"ripples, {name}")
            simulation = self._simulation(make)
            self.falling[name] = self._falling(simulation)
            for rate in config.rates if name in shown else ():
                square = simulation.run(
                    max(config.horizons), rate, scale=config.noise
                )["square"]
                self.fixed[name, rate] = prefix_means(square, config.horizons)
        self.bare: dict[int, np.ndarray] = {}
        for k in config.kept:
            tick(f"ripples, random-{k} without feedback")
            self.bare[k] = self._falling(self._simulation(without_feedback(k)))

    def theorem_ii(self) -> list[Curve]:
        """At fixed γ; the bound falls to a floor, so that there is no rate."""
        at = np.asarray(self.config.horizons)
        return [
            Curve(f"{name}, γ = {rate:g}", at, runs,
                  bounds.feedback(at, rate, self.delta[name], *self.constants))
            for (name, rate), runs in self.fixed.items()
        ]

    def remark_4(self, names: Any = None) -> list[Curve]:
        """At γ = 1/√(T+1); SGD under the smaller bound that it has alone."""
        at, curves = np.asarray(self.config.horizons), []
        for name, runs in self.falling.items():
            rate = 1 / np.sqrt(at)
            bound = (
                bounds.descent(at, rate, *self.constants) if name == SGD else
                bounds.feedback(at, rate, self.delta[name], *self.constants)
            )
            if names is None or name in names:
                curves.append(self._curve(name, runs, bound))
        return curves

    def remark_5(self) -> list[Curve]:
        """Unbiased random-k: with feedback, as U/κ, and without."""
        at, d, curves = np.asarray(self.config.horizons), self.config.dimension, []
        gap, smoothness, moment = self.constants
        for k, runs in self.bare.items():
            bound = bounds.descent(at, at**-0.5, gap, smoothness, d / k * moment)
            curves.append(self._curve(f"κ = {d / k:g}, without feedback", runs, bound))
        for k in self.bare:
            bound = bounds.feedback(at, at**-0.5, k / d, *self.constants)
            curves.append(self._curve(
                f"κ = {d / k:g}, with feedback", self.falling[f"random-{k}"], bound
            ))
        return curves

    def printed_ratio(self) -> dict[str, float]:
        """The largest parts of Theorem II and Remark 5 as they are printed."""
        at, d = np.asarray(self.config.horizons), self.config.dimension
        theorem = max(
            (runs.mean(0) / bounds.feedback(
                at, rate, self.delta[name], *self.constants, printed=True
            )).max()
            for (name, rate), runs in self.fixed.items()
        )
        remark = max(
            (self.falling[f"random-{k}"].mean(0) / bounds.unbiased_as_printed(
                at, d / k, *self.constants
            )).max()
            for k in self.bare
        )
        return {"Theorem II": float(theorem), "Remark 5": float(remark)}

    def gaps(self) -> dict[str, Curve]:
        """Distances to SGD under the same noise; |gap| as a curve of rate 1/T."""
        named = {name: runs for name, runs in self.falling.items() if name != SGD}
        named |= {f"random-{k}, no feedback": runs for k, runs in self.bare.items()}
        at = np.asarray(self.config.horizons)
        return {
            name: Curve(
                name, at, _one_sign(runs - self.falling[SGD]), np.ones(len(at)),
                1 / at, self.config.fit_from,
            )
            for name, runs in named.items()
        }

    def leading(self, runs: np.ndarray) -> tuple[float, float]:
        """The ratio to SGD at T → ∞, and its deviation over the seeds' halves.

        From a line in 1/√T: (A' + B'/√T)/(A + B/√T) = A'/A + c/√T + ...
        """
        at = np.asarray(self.config.horizons)
        used = at >= self.config.fit_from
        halves = np.array_split(np.arange(len(runs)), min(4, len(runs)))

        def extrapolated(chosen: Any) -> float:
            ratio = runs[chosen].mean(0) / self.falling[SGD][chosen].mean(0)
            return float(np.polyfit(at[used] ** -0.5, ratio[used], 1)[1])

        each = [extrapolated(part) for part in halves]
        spread = np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0
        return extrapolated(slice(None)), float(spread)

    def _curve(self, name: str, runs: np.ndarray, bound: Any) -> Curve:
        at = np.asarray(self.config.horizons)
        return Curve(name, at, runs, bound, at**-0.5, self.config.fit_from)

    def _simulation(self, make: Make) -> Simulation:
        return Simulation(
            self.problem, make, lambda s: {"square": jnp.sum(s.gradient**2)},
            self.config.seeds,
        )

    def _falling(self, simulation: Simulation) -> np.ndarray:
        return np.stack([
            simulation.run(n, n**-0.5, scale=self.config.noise)["square"].mean(0)
            for n in self.config.horizons
        ], axis=1)


def _one_sign(gaps: np.ndarray) -> np.ndarray:
    """Gaps as positive numbers, whichever side of SGD their means are on."""
    return gaps * np.where(gaps.mean(axis=0) < 0, -1.0, 1.0)

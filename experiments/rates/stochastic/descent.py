"""Theorems 1 to 3 and 6 of Safaryan and Richtárik on functions with known constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ef_optax
from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.problems import (
    CAUCHY,
    GAUSSIAN,
    Noise,
    Problem,
    quadratic,
    ripples,
)
from experiments.rates.simulate import (
    Make,
    Simulation,
    Step,
    prefix_means,
    weighted_means,
)

Tick = Callable[[str], Any]


def bowl(dimension: int, start: float) -> Problem:
    """The quadratic, with curvatures from 0.5 to 1.5."""
    return quadratic(np.linspace(0.5, 1.5, dimension), start)


def waves(config: Any) -> Problem:
    """The ripples, not convex and with bounded gradients."""
    return ripples(np.linspace(0.5, 1.0, config.dimension), config.start)


def sign_sgd(rate: Any, key: Any) -> Any:
    """Option 1."""
    del key
    return ef_optax.sign_sgd(rate)


def accepting(rate: Any, key: Any) -> Any:
    """Option 2. The rate of step k is given from outside, whatever was accepted."""
    del key
    return ef_optax.accept_if_lower(ef_optax.sign_sgd(rate))


def voting(rate: Any, key: Any) -> Any:
    """Algorithm 2, on the axis "workers"."""
    del key
    return ef_optax.sign_sgd(rate, axis_name="workers")


class Descent:
    """True gradients along runs; what the theorems ask of them is computed after.

    Attributes:
      cases: functions and noises of Theorems 1 and 2, by label. Signs need neither a
        mean nor a variance of the noise.
    """

    def __init__(self, config: Any, tick: Tick):
        self.config, self.tick = config, tick
        self.at = np.asarray(config.horizons)
        quadratic_ = bowl(config.dimension, config.start)
        self.cases: dict[str, tuple[Problem, Noise]] = {
            "quadratic, Gaussian": (quadratic_, GAUSSIAN),
            "quadratic, Cauchy": (quadratic_, CAUCHY),
            "ripples, Gaussian": (waves(config), GAUSSIAN),
        }
        self._one = {
            label: self._simulation(problem, noise, sign_sgd)
            for label, (problem, noise) in self.cases.items()
        }

    def theorem_1(self) -> list[Curve]:
        """Option 1 with decreasing and with constant steps."""
        curves = []
        for label, (problem, noise) in self.cases.items():
            self.tick(f"Theorem 1, {label}")
            curves += self._both(label, self._one[label], problem, noise)
        return curves

    def theorem_2(self) -> list[Curve]:
        """Option 2: the plain mean, without the logarithm."""
        curves, first = [], self.config.first_rate
        for label, (problem, noise) in self.cases.items():
            self.tick(f"Theorem 2, {label}")
            simulation = self._simulation(problem, noise, accepting)
            norms = self._norms(simulation, noise, first, 0.5)
            curves.append(Curve(
                f"{label}, decreasing", self.at, prefix_means(norms, self.at),
                bounds.decreasing_accepted(
                    self.at, first, problem.gap, float(problem.smooth.sum())
                ),
                self.at**-0.5, self.config.fit_from,
            ))
            norms = self._norms(simulation, noise, self.config.rate, 0.0)
            curves.append(self._constant(label, norms, problem))
        return curves

    def theorem_3(self) -> list[Curve]:
        """Majority vote under the ρ_M-norm."""
        problem = bowl(self.config.vote_dimension, self.config.start)
        curves = []
        for workers in self.config.workers:
            self.tick(f"Theorem 3, M = {workers}")
            simulation = self._simulation(problem, GAUSSIAN, voting, workers)
            curves += self._both(f"M = {workers}", simulation, problem, GAUSSIAN)
        return curves

    def theorem_6(self) -> list[Curve]:
        """SGD on the ripples, where E‖ĝ‖² has a bound."""
        problem, config = self.cases["ripples, Gaussian"][0], self.config
        self.tick("Theorem 6")
        constant = problem.second_moment(config.noise) * float(problem.smooth.max())
        simulation = Simulation(
            problem, lambda rate, key: ef_optax.ef_sgd(rate, ef_optax.identity()),
            lambda s: {"square": jnp.sum(s.gradient**2)}, config.seeds,
        )
        first, plain = (
            simulation.run(
                int(self.at[-1]), rate, scale=config.noise, decay=decay
            )["square"]
            for rate, decay in ((config.first_rate, 0.5), (config.rate, 0.0))
        )
        return [
            self._decreasing("ripples", first, problem.gap, constant),
            Curve(
                "ripples, constant", self.at, prefix_means(plain, self.at),
                bounds.constant(self.at, config.rate, problem.gap, constant),
            ),
        ]

    def appendix_d(self) -> list[Curve]:
        """The best constant step for each K: three norms, with their bounds.

        Those are of the mean ‖g_k‖_ρ, of the l^{1,2}-norm, and of Σ|g_i| where σ <
        √3|g_i|/2 plus Σg_i²/σ elsewhere.
        """
        curves = []
        for label in ("quadratic, Gaussian", "ripples, Gaussian"):
            problem, _ = self.cases[label]
            self.tick(f"appendix D, {label}")
            smoothness = float(problem.smooth.sum())
            runs: dict[str, list[np.ndarray]] = {"ρ": [], "l^{1,2}": [], "mixed": []}
            for steps in self.at:
                rate = float(np.sqrt(2 * problem.gap / (smoothness * steps)))
                measured = self._run(self._one[label], rate, 0.0, int(steps))
                for kind, into in runs.items():
                    into.append(measured[kind].mean(0))
            for kind, found in runs.items():
                factor = 5.0 if kind == "mixed" else np.sqrt(2)
                curves.append(Curve(
                    f"{problem.name}, {kind}-norm", self.at, np.stack(found, axis=1),
                    factor * np.sqrt(smoothness * problem.gap / self.at), self.at**-0.5,
                    self.config.fit_from,
                ))
        return curves

    def _simulation(
        self, problem: Problem, noise: Noise, make: Make, workers: int | None = None
    ) -> Simulation:
        """Measures all norms, but with votes the gradient, see `_norms`."""
        scale, success = self.config.noise, noise.success
        assert success is not None

        def norms(step: Step) -> dict[str, jax.Array]:
            if workers is not None:
                return {"gradient": step.gradient}
            size = jnp.abs(step.gradient)
            clear = scale < 3**0.5 / 2 * size
            return {
                "ρ": ef_optax.measures.rho_norm(step.gradient, success(size / scale)),
                "l^{1,2}": ef_optax.measures.l12_norm(step.gradient, scale),
                "mixed": jnp.sum(jnp.where(clear, size, size**2 / scale)),
            }

        return Simulation(
            problem, make, norms, self.config.seeds, noise=noise, workers=workers
        )

    def _run(
        self, simulation: Simulation, rate: float, decay: float, steps: int
    ) -> dict[str, Any]:
        return simulation.run(steps, rate, scale=self.config.noise, decay=decay)

    def _norms(
        self, simulation: Simulation, noise: Noise, rate: float, decay: float
    ) -> np.ndarray:
        """Returns ‖g_k‖_ρ, or ‖g_k‖_{ρ_M}, at every step, as [steps, seeds]."""
        measured = self._run(simulation, rate, decay, int(self.at[-1]))
        if simulation.workers is None:
            return measured["ρ"]

        def norm(g: jax.Array) -> jax.Array:
            assert noise.success is not None
            rho = noise.success(jnp.abs(g) / self.config.noise)
            return ef_optax.measures.rho_m_norm(g, rho, simulation.workers)

        # All at once: in the scan the beta function would take longer than the step.
        over = jax.jit(jax.vmap(jax.vmap(norm)))
        return np.asarray(over(jnp.float32(measured["gradient"])), np.float64)

    def _both(
        self, label: str, simulation: Simulation, problem: Problem, noise: Noise
    ) -> list[Curve]:
        norms = self._norms(simulation, noise, self.config.first_rate, 0.5)
        plain = self._norms(simulation, noise, self.config.rate, 0.0)
        smoothness = float(problem.smooth.sum())
        return [
            self._decreasing(label, norms, problem.gap, smoothness),
            self._constant(label, plain, problem),
        ]

    def _decreasing(
        self, label: str, measured: np.ndarray, gap: float, smoothness: float
    ) -> Curve:
        """The mean weighted by γ_k, which the proofs bound and which is no less."""
        weights = np.arange(1, self.at[-1] + 1) ** -0.5
        return Curve(
            f"{label}, decreasing", self.at,
            weighted_means(measured, weights, self.at),
            bounds.decreasing(self.at, self.config.first_rate, gap, smoothness),
            np.log(self.at) / np.sqrt(self.at), self.config.fit_from,
        )

    def _constant(self, label: str, norms: np.ndarray, problem: Problem) -> Curve:
        return Curve(
            f"{label}, constant", self.at, prefix_means(norms, self.at),
            bounds.constant(
                self.at, self.config.rate, problem.gap, float(problem.smooth.sum())
            ),
        )


def schedule_of_accepted_steps(config: Any) -> tuple[Curve, Curve]:
    """A schedule inside accept_if_lower, which counts the steps that were taken.

    Theorem 2 counts all: where the first step is too long and the gradient exact, the
    theorem's steps shrink until one is taken, and a schedule inside stays where it is.

    Returns:
      The mean ‖g_k‖₁ for ½x² from x₀ = 0.4γ₀, inside and by the theorem.
    """
    problem = quadratic(np.ones(1), 0.4 * config.first_rate)
    at = np.asarray(config.horizons)

    def inside(rate: Any, key: Any) -> Any:
        del key
        return ef_optax.accept_if_lower(
            ef_optax.sign_sgd(lambda count: rate / jnp.sqrt(count + 1.0))
        )

    bound = bounds.decreasing_accepted(at, config.first_rate, problem.gap, 1.0)
    curves = []
    for label, make, decay in (
        ("schedule inside accept_if_lower", inside, 0.0),
        ("step k of Algorithm 1", accepting, 0.5),
    ):
        norms = Simulation(
            problem, make, lambda s: {"norm": jnp.sum(jnp.abs(s.gradient))}, 1
        ).run(int(at[-1]), config.first_rate, scale=0.0, decay=decay)["norm"]
        curves.append(Curve(label, at, prefix_means(norms, at), bound, at**-0.5))
    return curves[0], curves[1]

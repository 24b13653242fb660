"""Theorems 1, 2 and C.1 of Bernstein et al. on functions with known constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special

import ef_optax
from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.problems import (
    GAUSSIAN,
    SKEWED,
    Noise,
    Problem,
    quadratic,
    ripples,
    valley,
)
from experiments.rates.simulate import Simulation

Tick = Callable[[str], Any]

# S on the slope of the valley, and how often one worker is right there.
SIGNAL = 0.15
RIGHT = float(scipy.special.ndtr(SIGNAL))


def bowl(config: Any) -> Problem:
    """The quadratic, with curvatures from 0.1 to 1."""
    return quadratic(np.geomspace(0.1, 1, config.dimension), config.start)


def bumps(config: Any) -> Problem:
    """The ripples, all of one height."""
    return ripples(np.full(config.dimension, 0.5), config.start)


def make_sign(rate: Any, key: Any) -> Any:
    """One worker."""
    del key
    return ef_optax.sign_sgd(rate)


def make_vote(rate: Any, key: Any) -> Any:
    """Many workers."""
    del key
    return ef_optax.sign_sgd(rate, axis_name="workers")


def norms(
    config: Any, problem: Problem, noise: Noise, scales: Any,
    workers: int | None = None, horizons: Any = None,
) -> list[np.ndarray]:
    """Returns the mean over k of ‖g_k‖₁ for each scale and K, as [seeds, horizons].

    The learning rate is 1/√(‖L‖₁K), and the batch K: noise of deviation scale/√K.
    """
    simulation = Simulation(
        problem, make_sign if workers is None else make_vote,
        lambda s: {"norm": jnp.sum(jnp.abs(s.gradient))}, config.seeds, noise=noise,
        workers=workers,
    )
    smoothness = problem.smooth.sum()
    return [
        np.stack([
            simulation.run(k, (smoothness * k) ** -0.5, scale=scale, batch=k)[
                "norm"
            ].mean(0) for k in (config.horizons if horizons is None else horizons)
        ], axis=1) for scale in scales
    ]


def _curve(config: Any, label: str, runs: Any, bound: Any) -> Curve:
    at = np.asarray(config.horizons)
    return Curve(label, at, runs, bound, at**-0.5, config.fit_from)


def bound_of(
    config: Any, problem: Problem, scale: float, workers: Any = 1, at: Any = None
) -> Any:
    """Theorem 1's bound, and Theorem 2 (b)'s with `workers`."""
    at = np.asarray(config.horizons if at is None else at)
    return bounds.sign(
        at, problem.gap, problem.smooth.sum(), scale * config.dimension, workers
    )


def theorem_1(config: Any, tick: Tick) -> list[Curve]:
    """SignSGD alone, on the quadratic with several noises and on the ripples."""
    curves = []
    for problem, scales in (
        (bowl(config), config.noises), (bumps(config), config.noises[-1:])
    ):
        tick(f"Theorem 1, {problem.name}")
        for scale, runs in zip(
            scales, norms(config, problem, GAUSSIAN, scales), strict=True
        ):
            curves.append(_curve(
                config, f"{problem.name}, σ = {scale:g}", runs,
                bound_of(config, problem, scale),
            ))
    return curves


def theorem_2(config: Any, tick: Tick) -> tuple[list[Curve], list[Curve], list[Curve]]:
    """Majority votes on the quadratic.

    Returns:
      The curves under (a), those with Gaussian noise under (b), and those with skewed
      noise under (b), which does not speak of them.
    """
    problem = bowl(config)
    a: list[Curve] = []
    b: list[Curve] = []
    unsuited: list[Curve] = []
    for noise, scale, workers in (
        *((GAUSSIAN, config.vote_noise, m) for m in config.workers),
        *((SKEWED, config.vote_noise, m) for m in config.skewed_workers),
    ):
        tick(f"Theorem 2, {noise.name} noise, M = {workers}")
        (runs,) = norms(config, problem, noise, [scale], workers)
        label = f"{noise.name}, M = {workers}"
        a.append(_curve(config, label, runs, bound_of(config, problem, scale)))
        less = bound_of(config, problem, scale, workers)
        (b if noise.unimodal else unsuited).append(_curve(config, label, runs, less))
    return a, b, unsuited


def long_valley(config: Any) -> tuple[Problem, float]:
    """A valley on which three workers need 0.9 K steps, and the noise, for its K.

    Its slope is `SIGNAL` times the deviation of a batch of K, so that nearly half of
    the signs of one worker are wrong on the whole way down.
    """
    steps, curvature = config.valley_steps, 1.0
    rate = (config.dimension * curvature * steps) ** -0.5
    distance = 0.9 * steps * rate * bounds.vote_weight(3, RIGHT)
    slope = 0.3 * distance * curvature
    return (
        valley(config.dimension, slope, curvature, distance),
        slope / SIGNAL * np.sqrt(steps),
    )


def slope_of_votes(config: Any) -> float:
    """How the time on the valley's slope falls with M, by exact chances."""
    workers = np.asarray(config.valley_workers)
    time = 1 / bounds.vote_weight(workers, RIGHT)
    if len(workers) < 2:
        return float("nan")
    return float(np.polyfit(np.log(workers), np.log(time), 1)[0])


def workers_in_valley(config: Any, tick: Tick) -> Curve:
    """The mean ‖g‖₁ in the valley by the number of workers, at one K."""
    problem, scale = long_valley(config)
    runs = []
    for workers in config.valley_workers:
        tick(f"Theorem 2, valley, M = {workers}")
        (found,) = norms(
            config, problem, GAUSSIAN, [scale], workers, (config.valley_steps,)
        )
        runs.append(found[:, 0])
    at = np.asarray(config.valley_workers)
    return Curve(
        f"valley, K = {config.valley_steps}", at, np.stack(runs, axis=1),
        bound_of(config, problem, scale, at, config.valley_steps), at**-0.5,
    )


def workers_by_noise(config: Any, curves: list[Curve], name: str) -> Curve:
    """The last horizon of Theorem 2's curves by the number of workers."""
    chosen = [c for c in curves if c.label.startswith(name)]
    at = np.asarray([int(c.label.split("= ")[1]) for c in chosen])
    return Curve(
        f"quadratic, {name} noise, K = {config.horizons[-1]}", at,
        np.stack([c.runs[:, -1] for c in chosen], axis=1),
        np.asarray([c.bound[-1] for c in chosen]), at**-0.5,
    )


def theorem_c1(config: Any, tick: Tick) -> list[Curve]:
    """SGD with large batches and small steps: the mean of ‖g‖²."""
    at, curves = np.asarray(config.horizons), []
    for problem in (bowl(config), bumps(config)):
        tick(f"Theorem C.1, {problem.name}")
        scale, smoothness = config.noises[1], float(problem.smooth.max())
        simulation = Simulation(
            problem, lambda rate, key: ef_optax.ef_sgd(rate, ef_optax.identity()),
            lambda s: {"square": jnp.sum(s.gradient**2)}, config.seeds,
        )
        for large in (True, False):
            runs = np.stack([
                simulation.run(
                    k, 1 / smoothness if large else 1 / (smoothness * k**0.5),
                    scale=scale, batch=k if large else 1,
                )["square"].mean(0) for k in config.horizons
            ], axis=1)
            bound = bounds.sgd(
                at, problem.gap, smoothness, config.dimension * scale**2, large
            )
            curves.append(Curve(
                f"{problem.name}, {'large batch' if large else 'batch of 1'}", at,
                runs, bound, at ** (-1.0 if large else -0.5), config.fit_from,
            ))
    return curves

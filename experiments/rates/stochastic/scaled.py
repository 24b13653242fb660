"""Appendix E of Safaryan and Richtárik: the stochastic sign, and against EF."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

import ef_optax
from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.simulate import Simulation, Step
from experiments.rates.stochastic.descent import Tick, waves


class Moments(NamedTuple):
    """What was drawn from C(x) = ‖x‖₂ · stochastic sign, over several x.

    Attributes:
      mean: how many standard errors the mean of C(x) is off from x at most.
      norm: how far ‖C(x)‖² is from d‖x‖² at most, of any draw, relatively.
      variance: the mean of ‖C(x) - x‖² ÷ (d-1)‖x‖², one for each x.
      error: its standard errors.
      zero: whether C(0) = 0 in all draws.
    """

    mean: float
    norm: float
    variance: np.ndarray
    error: np.ndarray
    zero: bool


def moments(config: Any) -> Moments:
    """Draws from the library's compressor."""
    d = config.dimension
    rng = np.random.default_rng(0)
    vectors = {
        "dense": np.ones(d), "Gaussian": rng.standard_normal(d),
        "one coordinate": np.eye(d)[0], "half zero": np.arange(d) % 2 * 1.0,
    }
    off, norm, variance, error = 0.0, 0.0, [], []

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        c = ef_optax.stochastic_sign(key)
        return c.update(x, c.init(x))[0]

    keys = jax.random.split(jax.random.key(3), config.samples)
    all_ = jax.jit(jax.vmap(one, in_axes=(0, None)))

    def draw(x: np.ndarray) -> np.ndarray:
        return np.asarray(all_(keys, jnp.float32(x)), np.float64)

    for vector in vectors.values():
        x = vector.astype(np.float32).astype(np.float64)
        found, square = draw(x), float(x @ x)
        spread = np.sqrt(np.maximum(square - x**2, 0) / config.samples)
        # Where |x_i| = ‖x‖ the sign is certain.
        off = max(off, float(
            (np.abs(found.mean(0) - x) / np.maximum(spread, 1e-6 * square**0.5)).max()
        ))
        norm = max(norm, float(np.abs((found**2).sum(1) / (d * square) - 1).max()))
        ratio = ((found - x) ** 2).sum(1) / ((d - 1) * square)
        variance.append(ratio.mean())
        error.append(ratio.std(ddof=1) / np.sqrt(config.samples))
    zero = not np.any(draw(np.zeros(d)))
    return Moments(off, norm, np.asarray(variance), np.asarray(error), zero)


class Against(NamedTuple):
    """The stochastic sign against the scaled sign with error feedback, by γ.

    Attributes:
      stochastic: mean ‖∇f‖² of the one, under its bound.
      feedback: that of the other, under Theorem II with δ = 1/d.
      as_measured: Theorem II with the least density φ(p_t) that occurred, for each γ.
      thresholds: the γ of the paper, and with the provable Theorem II.
      crossings: where the bounds really cross, in the same order.
      density: the least φ(p_t) of all, and the mean.
    """

    stochastic: Curve
    feedback: Curve
    as_measured: np.ndarray
    thresholds: tuple[float, float]
    crossings: tuple[float, float]
    density: tuple[float, float]


def against_feedback(config: Any, tick: Tick) -> Against:
    """Runs both on the ripples for K steps with γ around the threshold."""
    problem, d = waves(config), config.dimension
    smoothness = float(problem.smooth.max())
    moment = problem.second_moment(config.noise)
    thresholds = (
        bounds.threshold(d, smoothness, printed=True), bounds.threshold(d, smoothness)
    )
    steps = config.against_steps
    at = thresholds[0] * np.asarray(config.multiples)
    least, typical = [], []

    def square(step: Step) -> dict[str, jax.Array]:
        return {"square": jnp.sum(step.gradient**2)}

    def with_density(step: Step) -> dict[str, jax.Array]:
        return square(step) | {"density": step.state[-1].corrected_density}

    tick("appendix E, stochastic sign")
    simulation = Simulation(
        problem, lambda rate, key: ef_optax.stochastic_sign_sgd(rate, key=key), square,
        config.seeds,
    )
    own = np.stack([
        simulation.run(steps, gamma, scale=config.noise)["square"].mean(0)
        for gamma in at
    ], axis=1)
    tick("appendix E, scaled sign with feedback")
    simulation = Simulation(problem, _measured_feedback, with_density, config.seeds)
    other = []
    for gamma in at:
        measured = simulation.run(steps, gamma, scale=config.noise)
        other.append(measured["square"].mean(0))
        least.append(measured["density"].min())
        typical.append(measured["density"].mean())
    constants = problem.gap, smoothness, moment

    def crossing(printed: bool) -> float:
        def difference(log_rate: float) -> float:
            # Without the first terms, as the paper leaves out their factor 2.
            rate = np.exp(log_rate)
            same = 0.0, smoothness, moment
            return float(
                bounds.stochastic_sign(steps, rate, *same, d)
                - bounds.feedback(steps, rate, 1 / d, *same, printed=printed)
            )

        return float(np.exp(scipy.optimize.brentq(difference, np.log(1e-9), 0.0)))

    return Against(
        Curve("stochastic sign", at, own,
              bounds.stochastic_sign(steps, at, *constants, d)),
        Curve("scaled sign with feedback", at, np.stack(other, axis=1),
              bounds.feedback(steps, at, 1 / d, *constants)),
        bounds.feedback(steps, at, np.asarray(least), *constants),
        thresholds, (crossing(True), crossing(False)),
        (float(np.min(least)), float(np.mean(typical))),
    )


def _measured_feedback(rate: Any, key: Any) -> Any:
    """EF-signSGD, with the density of what is compressed in the last state."""
    del key
    return optax.chain(
        optax.scale_by_learning_rate(rate),
        ef_optax.record_measures(ef_optax.error_feedback(ef_optax.scaled_sign())),
    )

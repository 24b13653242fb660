"""Descents on the Rosenbrock function, all repetitions of all settings at once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ef_optax
from experiments.toys._descent import descend
from experiments.toys.rosenbrock import _problem as problem


class Setting(NamedTuple):
    """One column of a figure.

    Attributes:
      step_size: gamma, or gamma_0.
      power: of k + 1 in the denominator of the step size: 0 or 0.5.
      batch: of a stochastic gradient.
      noise: nu.
      start: name of the initial point.
    """

    step_size: float
    power: float
    batch: int
    noise: float
    start: str


def schedule(step_size: Any, power: Any) -> optax.Schedule:
    """Returns step_size / (k + 1)**power as a function of k."""
    return lambda count: step_size / (count + 1.0) ** power


@functools.partial(jax.jit, static_argnames=("option", "points"))
def _descents(
    numbers: Any, starts: jax.Array, drawn: Any, *, option: int, points: bool
) -> jax.Array:
    def one(numbers: Any, start: jax.Array, drawn: Any) -> jax.Array:
        step_size, power, batch, noise = numbers
        tx = ef_optax.sign_sgd(schedule(step_size, power))
        return descend(
            tx if option == 1 else ef_optax.accept_if_lower(tx),
            lambda x, drawn: problem.stochastic_gradient(x, drawn, batch, noise),
            start, drawn,
            observe=lambda x, state: x if points else problem.value(x),
            loss=problem.value if option == 2 else None,
        )

    of_repetitions = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(of_repetitions, in_axes=(0, 0, None))(numbers, starts, drawn)


def descents(
    settings: Sequence[Setting], dimension: int, steps: int, repetitions: int,
    seed: int, option: int = 1, points: bool = True,
) -> np.ndarray:
    """Runs signSGD, every repetition of a setting from the same initial point.

    Args:
      settings: what differs.
      dimension: d.
      steps: how many iterations.
      repetitions: of each setting.
      seed: of all that is random; the settings share it.
      option: 1 takes every step, 2 only those that lower f.
      points: whether to return points; f at them otherwise.

    Returns:
      x_0, ..., x_steps, [settings, repetitions, steps + 1, d], or f at them.
    """
    numbers = np.array([s[:4] for s in settings], np.float32).T
    starts = np.stack([problem.start(s.start, dimension) for s in settings])
    drawn = problem.draw(
        (seed, 1), (repetitions, steps), max(s.batch for s in settings), dimension
    )
    return np.asarray(
        _descents(tuple(numbers), starts, drawn, option=option, points=points)
    )


values = jax.jit(jnp.vectorize(problem.value, signature="(d)->()"))


def last_quarter(values: np.ndarray) -> Any:
    """Returns the mean of f over the last quarter of the iterations."""
    return values[..., 3 * values.shape[-1] // 4 :].mean(axis=-1)


def slopes(values: np.ndarray, group: int = 10) -> list[float]:
    """Returns slopes of log f against log k over the last nine tenths of iterations.

    f is the mean of a group of repetitions and of ten parts of the iterations, equal
    on a logarithmic axis: a single run is a walk with jumps of orders of magnitude.

    Args:
      values: of f, [repetitions, steps + 1].
      group: how many repetitions make one, if there are so many.
    """
    steps = values.shape[-1] - 1
    ends = np.unique(np.geomspace(steps / 10, steps + 1, 11).astype(int))
    middle = np.sqrt(ends[:-1] * ends[1:])
    out = []
    for several in np.array_split(values, max(1, len(values) // group)):
        parts = [
            several[:, a:b].mean() for a, b in itertools.pairwise(ends)
        ]
        # The minimum, 0, is reached to the bit where it is on the lattice of steps.
        logs = np.log(np.maximum(parts, 1e-12))
        out.append(float(np.polyfit(np.log(middle), logs, 1)[0]))
    return out

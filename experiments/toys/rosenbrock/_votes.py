"""signSGD by majority vote on the Rosenbrock function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ef_optax
from experiments.toys._descent import descend
from experiments.toys.rosenbrock import _problem as problem
from experiments.toys.rosenbrock._runs import Setting, schedule

AXIS = "workers"


def _unless_idle(g: jax.Array, workers: jax.Array) -> jax.Array:
    """Returns g of the first workers, and 0, an abstention, of the others.

    So one program serves all numbers of workers, with the same votes.
    """
    return jnp.where(jax.lax.axis_index(AXIS) < workers, g, 0)


@jax.jit
def _votes(
    numbers: Any, workers: jax.Array, start: jax.Array, drawn: Any
) -> jax.Array:
    def worker(numbers: Any, workers: jax.Array, drawn: Any) -> jax.Array:
        # Every worker descends, with random numbers of its own; votes keep them alike.
        step_size, power, noise = numbers
        return descend(
            ef_optax.sign_sgd(schedule(step_size, power), axis_name=AXIS),
            lambda x, drawn: _unless_idle(
                problem.stochastic_gradient(x, drawn, 1, noise), workers
            ),
            start, drawn, observe=lambda x, state: problem.value(x),
        )

    def one(numbers: Any, workers: jax.Array, drawn: Any) -> jax.Array:
        of_all = jax.vmap(worker, in_axes=(None, None, 0), axis_name=AXIS)
        return of_all(numbers, workers, drawn)[0]

    mapped = jax.vmap(one, in_axes=(None, None, 0))
    mapped = jax.vmap(mapped, in_axes=(None, 0, None))
    return jax.vmap(mapped, in_axes=(0, None, None))(numbers, workers, drawn)


def votes(
    settings: Sequence[Setting], workers: Sequence[int], dimension: int, steps: int,
    repetitions: int, seed: int,
) -> np.ndarray:
    """Runs signSGD with majority vote, mini-batch 1.

    Args:
      settings: step sizes; the noise and the initial point of all are the same.
      workers: how many vote.
      dimension: d.
      steps: how many iterations.
      repetitions: of each setting with each number of workers.
      seed: of all that is random.

    Returns:
      f at x_0, ..., x_steps, [settings, workers, repetitions, steps + 1].
    """
    numbers = np.array(
        [(s.step_size, s.power, s.noise) for s in settings], np.float32
    ).T
    drawn = problem.draw((seed, 3), (repetitions, max(workers), steps), 1, dimension)
    start = problem.start(settings[0].start, dimension)
    return np.asarray(_votes(tuple(numbers), np.array(workers), start, drawn))


@jax.jit
def _sides(x: jax.Array, workers: jax.Array, noise: Any, drawn: Any) -> jax.Array:
    vote = ef_optax.majority_vote(AXIS)

    def one(workers: jax.Array, drawn: Any) -> jax.Array:
        g = problem.stochastic_gradient(x, drawn, 1, noise)
        return vote.update(_unless_idle(g, workers), vote.init(g))[0]

    def result(workers: jax.Array, drawn: Any) -> jax.Array:
        return jax.vmap(one, in_axes=(None, 0), axis_name=AXIS)(workers, drawn)[0]

    mapped = jax.vmap(jax.vmap(result, in_axes=(None, 0)), in_axes=(0, None))
    return mapped(workers, drawn) * jnp.sign(problem.gradient(x))


def sides(
    x: np.ndarray, workers: Sequence[int], noise: float, draws: int,
    seed: Sequence[int],
) -> np.ndarray:
    """Returns sign(g) times the vote at x: 1 if it is right, -1 if wrong, 0 for a tie.

    Of one draw the fewer workers are among the more, so that their difference is known
    well.

    Args:
      x: the point.
      workers: how many vote.
      noise: nu.
      draws: how many votes.
      seed: numbers that no other draw has.

    Returns:
      An array [workers, draws, d].
    """
    drawn = problem.draw(seed, (draws, max(workers)), 1, x.size)
    return np.asarray(_sides(x, np.array(workers), np.float32(noise), drawn))

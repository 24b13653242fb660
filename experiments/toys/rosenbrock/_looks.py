"""What can be known of stochastic signs at the points of a run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ef_optax
from experiments.toys.rosenbrock import _problem as problem
from experiments.toys.rosenbrock._runs import Setting


@jax.jit
def _looks(x: jax.Array, batch: Any, noise: Any, chances: jax.Array) -> Any:
    def at(x: jax.Array) -> Any:
        excess = problem.success_excess(x, batch, noise, chances)
        rho = 0.5 + 0.5 * excess
        return excess, ef_optax.measures.rho_norm(problem.gradient(x), rho)

    return jax.vmap(jax.vmap(at))(x)


def looks(x: np.ndarray, setting: Setting, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns 2 rho - 1, exactly, and the rho-norm of the gradient.

    Args:
      x: points, [repetitions, looks, d].
      setting: of the run.
      most: the largest mini-batch of all calls, so that one program serves all.

    Returns:
      Arrays [repetitions, looks, d] and [repetitions, looks].
    """
    chances = problem.hit_chances(setting.batch, most, x.shape[-1]).astype(np.float32)
    excess, norm = _looks(
        x, np.float32(setting.batch), np.float32(setting.noise), chances
    )
    return np.asarray(excess), np.asarray(norm)


@jax.jit
def _estimates(x: jax.Array, batch: Any, noise: Any, drawn: Any) -> jax.Array:
    def at(x: jax.Array, drawn: Any) -> jax.Array:
        g = problem.gradient(x)
        samples = jax.vmap(
            lambda drawn: problem.stochastic_gradient(x, drawn, batch, noise)
        )(drawn)
        estimate = ef_optax.measures.success_probabilities(samples, g)
        return jnp.where(g == 0, 1.0, estimate).min()

    return jax.vmap(at)(x, drawn)


def least_estimates(
    x: np.ndarray, setting: Setting, most: int, draws: int, seed: int
) -> np.ndarray:
    """Returns the minimum over coordinates of estimates of rho from so many draws.

    Args:
      x: points, [looks, d].
      setting: of the run.
      most: the largest mini-batch of all calls.
      draws: stochastic gradients at each point.
      seed: of them.

    Returns:
      An array [looks].
    """
    drawn = problem.draw((seed, 2), (len(x), draws), most, x.shape[-1])
    return np.asarray(_estimates(
        x, np.float32(setting.batch), np.float32(setting.noise), drawn
    ))

"""Sparse noise: a quadratic whose gradient is noisy in one coordinate of a hundred.

Figure 5 of Karimireddy et al., and Figure A.1 of Bernstein et al. with the settings of
its notebook. `python -m experiments sparse_noise`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import ef_optax
from experiments._results import Results, progress
from experiments.toys._descent import descend, over_all
from experiments.toys.sparse_noise import _report
from experiments.toys.sparse_noise._config import Config
from experiments.toys.sparse_noise._report import CONSTANT, DECREASING, Losses

__all__ = ["Config", "run"]

METHODS: dict[str, Any] = {
    "SGD": lambda rate: ef_optax.ef_sgd(rate, ef_optax.identity()),
    "signSGD": ef_optax.sign_sgd,
    "scaled signSGD": ef_optax.scaled_sign_sgd,
    "EF-signSGD": ef_optax.ef_sign_sgd,
}


def drawn(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Returns x_0 [repeats, d] and the noise [repeats, long], alike for all methods."""
    rng = np.random.default_rng(config.seed)
    start = rng.standard_normal((config.repeats, config.dimension), np.float32)
    noise = rng.standard_normal((config.repeats, config.long), np.float32)
    return start, np.float32(config.noise) * noise


def losses(make: Any, rates: np.ndarray, start: np.ndarray, noise: np.ndarray) -> Any:
    """Returns the loss at every step, [rates, repeats, steps + 1].

    Args:
      make: the optimizer, of its learning rate.
      rates: learning rates at each step, [rates, steps].
      start: x_0 of each repeat.
      noise: of the first coordinate of the gradient, [repeats, steps].
    """

    def run(rate: Any, each: Any) -> Any:
        x, noise = each
        return descend(
            make(lambda t: rate[t]), lambda x, z: x.at[0].add(z), x, noise,
            lambda x, state: jnp.sum(x**2) / 2,
        )

    return over_all(run, np.float32(rates), (start, noise))


def run(config: Config) -> tuple[dict[str, Losses], Losses]:
    """Runs all methods; returns losses by schedule and method, and the grid's."""
    results = Results(config.results, "sparse_noise", config)
    start, noise = drawn(config)
    seen: dict[str, Losses] = {CONSTANT: {}, DECREASING: {}}
    grid: Losses = {}
    root = np.sqrt(np.arange(1, config.long + 1))
    tried = np.tile(np.array(config.grid)[:, None], config.steps)
    with progress(2 * len(METHODS), "run") as bar:
        for name, make in METHODS.items():
            bar.set_description(name)
            constant, decreasing = config.rates[name], config.decreasing[name]
            both = np.stack([np.full(config.long, constant), decreasing / root])
            seen[CONSTANT][name], seen[DECREASING][name] = losses(
                make, both, start, noise
            )
            bar.update()
            grid[name] = losses(make, tried, start, noise[:, : config.steps])
            bar.update()
    _report.metrics(results, config, seen, grid)
    results.figure(_report.figure(config, seen, grid))
    _report.verdicts(results, config, seen, grid)
    results.finish(_report.text(config, seen, grid))
    return seen, grid

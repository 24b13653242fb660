"""Lemma 3 of Karimireddy et al.: how large the error gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ef_optax
from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.feedback.algorithms import random, top


def streams(config: Any) -> dict[str, np.ndarray]:
    """Gradients of norm 1 that no optimizer's path would bring: [seeds, steps, d]."""
    rng = np.random.default_rng(0)
    shape = (config.seeds, config.error_steps, config.dimension)
    made = {
        "constant": np.ones(shape),
        "Gaussian": rng.standard_normal(shape),
        "one coordinate": np.eye(shape[2])[rng.integers(0, shape[2], shape[:2])],
        "heavy-tailed": rng.standard_normal(shape) ** 7,
    }
    return {name: unit(g) for name, g in made.items()}


def unit(g: np.ndarray) -> np.ndarray:
    """Returns vectors of norm 1, or 0."""
    norm = np.linalg.norm(g, axis=-1, keepdims=True)
    return g / np.where(norm > 0, norm, 1)


class Lemma3(NamedTuple):
    """What Lemma 3 is compared with.

    Attributes:
      mean: the greatest E‖e_t‖² over t, by 1/δ.
      surely: the greatest ‖e_t‖, by 1/δ.
      tight: the largest part of the tighter bound that the proof has.
    """

    mean: list[Curve]
    surely: list[Curve]
    tight: float


def lemma_3(config: Any, tick: Callable[[str], Any]) -> Lemma3:
    """Sends the streams through error feedback with γ = 1."""
    made, d = streams(config), config.dimension
    delta = np.asarray(config.error_kept) / d
    mean, surely = [], []
    for compressor in ("top-k", "random-k", "scaled sign"):
        peaks: dict[str, list[Any]] = {name: [] for name in made}
        greatest: dict[str, list[Any]] = {name: [] for name in made}
        for k in config.error_kept:
            tick(f"error norm, {compressor}, δ = {k}/{d}")
            # The scaled sign has δ = 1/d: its dimension is varied.
            size = d // k if compressor == "scaled sign" else d
            cut = np.concatenate([unit(g[..., :size]) for g in made.values()])
            found = _norms(_optimizer(compressor, k), jnp.float32(cut))
            for name, norms in zip(made, np.split(found, len(made)), strict=True):
                peaks[name].append(norms[:, (norms**2).mean(0).argmax()] ** 2)
                greatest[name].append(norms.max())
        for name in made:
            label = f"{compressor}, {name}"
            mean.append(Curve(
                label, 1 / delta, np.stack(peaks[name], axis=1),
                bounds.error_norm(delta, 1.0, 1.0),
            ))
            if compressor != "random-k":  # It contracts in expectation alone.
                surely.append(Curve(
                    label, 1 / delta, [greatest[name]],
                    bounds.error_norm_surely(delta, 1.0, 1.0),
                ))
    tighter = bounds.error_norm(delta, 1.0, 1.0, tight=True)
    return Lemma3(mean, surely, max((c.mean / tighter).max() for c in mean))


def _optimizer(compressor: str, k: int) -> Callable[[Any], Any]:
    made = {
        "top-k": lambda key: top(k)(1.0, key),
        "random-k": lambda key: random(k)(1.0, key),
        "scaled sign": lambda key: ef_optax.ef_sign_sgd(1.0),
    }
    return made[compressor]


def _norms(optimizer: Callable[[Any], Any], gradients: jax.Array) -> np.ndarray:
    """Returns ‖e_t‖ after every step, as [runs, steps]."""

    def one(key: jax.Array, stream: jax.Array) -> jax.Array:
        tx = optimizer(key)

        def step(state: Any, g: jax.Array) -> Any:
            _, state = tx.update(g, state)
            return state, ef_optax.error_norm(state)

        return jax.lax.scan(step, tx.init(stream[0]), stream)[1]

    keys = jax.random.split(jax.random.key(1), len(gradients))
    return np.asarray(jax.jit(jax.vmap(one))(keys, gradients), np.float64)

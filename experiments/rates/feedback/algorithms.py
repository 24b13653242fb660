"""Algorithms with error feedback that the study of Karimireddy et al. compares."""

from __future__ import annotations

import optax

import ef_optax
from experiments.rates.simulate import Make

SGD = "SGD"


def compressors(kept: tuple[int, ...], d: int) -> dict[str, tuple[float, Make]]:
    """Returns algorithms with error feedback by name, with their δ."""
    made: dict[str, tuple[float, Make]] = {
        SGD: (1.0, lambda rate, key: ef_optax.ef_sgd(rate, ef_optax.identity()))
    }
    for k in kept:
        made[f"top-{k}"] = k / d, top(k)
    for k in kept:
        made[f"random-{k}"] = k / d, random(k)
    made["scaled sign"] = 1 / d, lambda rate, key: ef_optax.ef_sign_sgd(rate)
    return made


def without_feedback(k: int) -> Make:
    """Returns SGD with unbiased random-k, d/k times what is kept."""
    return lambda rate, key: optax.chain(
        ef_optax.compress(ef_optax.random_k(k=k, key=key, scaled=True)),
        optax.scale_by_learning_rate(rate),
    )


def top(k: int) -> Make:
    """Returns EF-SGD with top-k."""
    return lambda rate, key: ef_optax.ef_sgd(rate, ef_optax.top_k(k=k))


def random(k: int) -> Make:
    """Returns EF-SGD with random-k."""
    return lambda rate, key: ef_optax.ef_sgd(rate, ef_optax.random_k(k=k, key=key))

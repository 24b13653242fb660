"""What compressors lose of random vectors of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ef_optax


def vectors_of(config: Any) -> dict[str, np.ndarray]:
    """Returns random vectors of several kinds, by name, one a row."""
    rng = np.random.default_rng(2)
    shape = (config.vectors, config.dimension)
    one = np.zeros(shape)
    places = rng.integers(0, config.dimension, config.vectors)
    one[np.arange(config.vectors), places] = rng.normal(size=config.vectors)
    return {
        "one non-zero": one,
        "a tenth non-zero": rng.normal(size=shape) * (rng.random(shape) < 0.1),
        "log-normal": rng.lognormal(sigma=2.0, size=shape) * rng.choice([-1, 1], shape),
        "Gaussian": rng.normal(size=shape),
        "all of one size": rng.choice([-1.0, 1.0], shape),
    }


def losses(config: Any) -> dict[str, dict[str, np.ndarray]]:
    """Returns φ and the lost parts of the squared norms, by kind of vector."""
    measures: dict[str, Callable[..., Any]] = {
        "density": ef_optax.density,
        "sign": partial(ef_optax.contraction, ef_optax.scaled_sign(zero="positive")),
        "sign with zero": partial(
            ef_optax.contraction, ef_optax.scaled_sign(zero="zero")
        ),
        "top-1": partial(ef_optax.contraction, ef_optax.top_k(k=1)),
    }
    compiled = {name: jax.jit(jax.vmap(f)) for name, f in measures.items()}
    return {
        kind: {name: np.asarray(f(jnp.float32(v))) for name, f in compiled.items()}
        for kind, v in vectors_of(config).items()
    }

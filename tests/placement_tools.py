"""Parameters, gradients and meshes for the tests of over_workers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

import ef_optax as eo

AXIS, PAIR = "workers", ("hosts", "devices")
COUNT = 4
# Few numbers of a few bits, powers of two of them: sums, means and scales are exact.
PARAMS = {
    "half": jnp.arange(8.0).astype(jnp.bfloat16) / 4,
    "matrix": jnp.arange(8.0).reshape(2, 4) / 8,
}


def mesh_of(axis=AXIS, kind=AxisType.Auto):
    return eo.worker_mesh(COUNT if axis == AXIS else (2, 2), axis, axis_type=kind)


def gradients(steps, like=PARAMS, count=COUNT):
    """Returns gradients [steps, workers, ...], a few of them zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(
            rng.integers(-8, 9, (steps, count, *x.shape)) / 8, x.dtype), like)


def at(step, tree):
    return jax.tree.map(lambda x: x[step], tree)


def momentum(axis=AXIS, exchange=None, compressor=None):
    """Per-worker state, and state that is the same everywhere."""
    return optax.chain(
        eo.local(optax.trace(0.5), axis),
        eo.error_feedback(
            compressor or eo.scaled_sign(), axis_name=axis, exchange=exchange),
    )

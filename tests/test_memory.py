"""Temporary memory of an exchange, as the compiled program declares it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_tools import full_compilation  # noqa: F401
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax as eo

SIZES = (1 << 20, 1 << 18, 1000, 3)


def temporary_bytes_per_parameter(tx, workers):
    """Compiles one update, gradient and state donated, as arrays of a worker axis."""
    mesh = eo.worker_mesh(workers)
    varying = functools.partial(jax.tree.map, eo.Workers("workers").varying)

    def stacked(tree):
        return jax.tree.map(lambda x: x[None], varying(tree))

    def init():
        return stacked(tx.init([jnp.zeros(n) for n in SIZES]))

    def update(grads, state):
        grads, state = jax.tree.map(lambda x: x[0], (grads, state))
        return stacked(tx.update(grads, state))

    split = P("workers")
    place = NamedSharding(mesh, split)
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        ([jax.ShapeDtypeStruct((workers, n), jnp.float32) for n in SIZES],
         jax.eval_shape(jax.shard_map(init, mesh=mesh, in_specs=(), out_specs=split))),
    )
    step = jax.shard_map(update, mesh=mesh, in_specs=split, out_specs=split)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes / np.sum(SIZES)


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10, 2), reason="older compilers write less in place")
@pytest.mark.usefixtures("full_compilation")
@pytest.mark.parametrize("workers", [2, 4])
def test_temporaries_are_little_more_than_messages(workers):
    vote = eo.majority_vote("workers", wire="packed", zero="positive", tie="positive")
    assert temporary_bytes_per_parameter(vote, workers) <= 0.5
    ef = functools.partial(
        eo.error_feedback, eo.scaled_sign(), axis_name="workers")
    two_way = ef(exchange=eo.two_way())
    # Not even a shard in float32: the server's error is corrected in place. The XLA of
    # JAX 0.12 stores the corrected update, where that of 0.10 computes it again.
    stored = 4 if jax.__version_info__ >= (0, 11) else 0
    assert temporary_bytes_per_parameter(two_way, workers) <= 1 + stored
    gather = ef(exchange=eo.gather())
    assert temporary_bytes_per_parameter(gather, workers) <= 0.5 + workers / 8

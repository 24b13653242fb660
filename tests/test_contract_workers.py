"""What every transformation must do among workers, inside optax's wrappers.

shard_map runs with check_vma=True, which knows what differs between the workers and
what does not, and refuses a transformation that declares its state wrongly.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from contract import CASES, LIGHT, every
from contract_tools import (
    PARAMS,
    assert_close,
    assert_same,
    assert_types,
    gradients,
    quick_compilation,  # noqa: F401
)
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import ef_optax as eo

pytestmark = pytest.mark.filterwarnings("ignore:No contraction is known")

AXIS = "workers"
COUNT = 4
# Without the empty leaf: the scalar is for what treats vectors otherwise.
TREE = {name: x for name, x in PARAMS.items() if name != "empty"}
CROSSING = [name for name, case in CASES.items() if case.crosses]


def over_workers(function, **kwargs):
    """Maps a function of gradients with a leading worker axis to replicated results."""
    mesh = jax.make_mesh(
        (COUNT,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:COUNT])
    return jax.jit(jax.shard_map(
        lambda grads: function(jax.tree.map(lambda x: x[0], grads)),
        mesh=mesh, in_specs=P(AXIS), out_specs=P(), **kwargs))


def train(tx, case, start=lambda state: state):
    """Returns a function that makes the state and scans over the steps."""

    def run(grads):
        def step(state, g):
            return tx.update(g, state, TREE, **case.extra)[::-1]

        return lax.scan(step, start(tx.init(TREE)), grads)[1]

    return run


def steps(*seeds):
    """Returns gradients [worker, step, ...]."""
    return jax.tree.map(
        lambda *x: jnp.stack(x, 1), *(gradients(s, TREE, (COUNT,)) for s in seeds))


def at(step, tree):
    return jax.tree.map(lambda x: x[step], tree)


@every(CROSSING, compiles=True)
def test_state_made_inside_goes_through_scan_and_a_nan_is_forgotten(case):
    case.needs("workers")
    # What follows the exchange may be skipped, since all workers see the same.
    tx = optax.chain(case.make(AXIS), optax.apply_if_finite(optax.trace(0.5), 9))
    run = over_workers(train(tx, case))
    clean, dirty = steps(0, 1, 2), steps(0, 3, 1)
    # One number of one worker in the second of three steps.
    dirty["matrix"] = dirty["matrix"].at[2, 1, 0, 0].set(jnp.nan)
    updates, skipping = run(clean), run(dirty)
    assert_types(updates, at(0, clean))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(skipping))
    if "nonfinite" not in case.skip:
        assert not any(jnp.any(x) for x in jax.tree.leaves(at(1, skipping)))
        if "forgets_nonfinite" not in case.skip:
            assert_same(at(2, skipping), at(1, updates))


# One for each kind of state and exchange; all light cases go through shard_map above.
TWICE = ("ef_two_way", "ef_sign_random", "exempt", "local", "vote_random")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in TWICE else pytest.mark.slow)
    for name in LIGHT])
def test_all_workers_agree_by_shard_map_by_vmap_and_under_multi_steps(name):
    case = CASES[name]
    tx, grads = case.make(AXIS), steps(0, 1)
    updates = over_workers(train(tx, case))(grads)
    mapped = jax.jit(jax.vmap(train(tx, case), axis_name=AXIS))(grads)
    assert_close(at(0, mapped), updates)
    for worker in range(1, COUNT):
        assert_same(at(worker, mapped), at(0, mapped))

    def typed(state):  # what is accumulated differs between the workers
        local = functools.partial(lax.pcast, axis_name=AXIS, to="varying")
        return state._replace(acc_grads=jax.tree.map(local, state.acc_grads))

    around = over_workers(train(optax.MultiSteps(tx, 2), case, typed))
    # Two steps of 0.5 and 1.5 times a gradient have its mean.
    twice = jax.tree.map(
        lambda x: jnp.stack([x / 2, x + x / 2], 2).reshape(COUNT, 4, *x.shape[2:]),
        grads)
    seen = around(twice)
    assert not any(jnp.any(x[::2]) for x in jax.tree.leaves(seen))
    assert_close(jax.tree.map(lambda x: x[1::2], seen), updates)


def test_what_optax_wraps_around_an_exchange_is_refused_unless_typed():
    case, vote = CASES["vote"], eo.majority_vote(AXIS)
    for tx, error, message in (
        # What is accumulated starts as zeros that are the same on all workers.
        (optax.MultiSteps(vote, 2), ValueError, "already summed"),
        # Each worker would decide alone whether to call the collective.
        (optax.apply_if_finite(vote, 9), TypeError, "types"),
    ):
        with pytest.raises(error, match=message):
            over_workers(train(tx, case))(steps(0, 1))
        # Where nothing is typed nothing is refused; a NaN on one worker would hang.
        over_workers(train(tx, case), check_vma=False)(steps(0, 1))

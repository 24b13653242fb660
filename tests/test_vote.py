"""Majority vote against NumPy: zeros, ties, thresholds, quorums and many workers."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import ef_optax as eo

AXIS = "workers"
CHANCES = 4096  # random votes a test counts
FAIR = 5 / CHANCES**0.5  # five standard deviations of the mean of as many signs


def over_workers(step, mode, workers):
    """Maps a function of one worker's gradients [workers, ...] over the workers."""
    if mode == "vmap":
        return jax.jit(jax.vmap(step, axis_name=AXIS))
    devices = jax.devices()[:workers]
    if mode == "pmap":
        return jax.pmap(step, axis_name=AXIS, devices=devices)
    mesh = jax.make_mesh((workers,), (AXIS,), devices=devices,
                         axis_types=(AxisType.Auto,))
    # P(AXIS) keeps every worker's copy, so that they can be compared.
    return jax.jit(jax.shard_map(
        lambda g: jax.tree.map(
            lambda x: x[None],
            eo.Workers(AXIS).varying(step(jax.tree.map(lambda x: x[0], g)))),
        mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS)))


def steps_of(tx):
    """All steps of gradients [steps, ...] of one worker, and the last state."""
    def run(grads):
        def step(state, g):
            updates, state = tx.update(g, state)
            return state, updates

        first = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), grads)
        state, updates = jax.lax.scan(step, tx.init(first), grads)
        return updates, state

    return run


def first_of_equals(tree):
    """The first worker's copy, after all have been found equal, bit for bit."""
    tree = jax.tree.map(np.asarray, tree)
    for x in jax.tree.leaves(tree):
        assert len({copy.tobytes() for copy in x}) == 1
    return jax.tree.map(lambda x: x[0], tree)


def signs(rng, *shape):
    return rng.choice([-1.0, 1.0], shape).astype(np.float32)


# what is decided


def numpy_vote(g, zero, tie, threshold, quorum):
    votes = np.where(g == 0, 1 if zero == "positive" else 0, np.sign(g))
    total = np.where(np.abs(g) < threshold, 0, votes).sum(0)
    winner = np.where(total == 0, 1 if tie == "positive" else 0, np.sign(total))
    return np.where(np.abs(total) < quorum, 0, winner)


@pytest.mark.parametrize("workers", [
    1, 3, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5))])
def test_every_outcome_of_few_workers_is_numpys(workers):
    # Every combination of these gradients, one a column.
    g = np.array(list(itertools.product([-2, -1, 0, 1, 2], repeat=workers)),
                 np.float32).T
    rules = list(itertools.product(["abstain", "positive"], ["zero", "positive"]))
    limits = list(itertools.product([0, 1, 1.5, 2, 3], range(workers + 1)))

    def step(g, threshold, quorum):  # traced, as a schedule would give them
        out = []
        for zero, tie in rules:
            tx = eo.majority_vote(
                AXIS, zero=zero, tie=tie, threshold=threshold, quorum=quorum)
            out.append(tx.update(g, tx.init(g))[0])
        return out

    run = jax.vmap(step, in_axes=(0, None, None), axis_name=AXIS)
    results = jax.jit(jax.vmap(run, in_axes=(None, 0, 0)))(
        g, *(np.array(limit, np.float32) for limit in zip(*limits, strict=True)))
    for (zero, tie), result in zip(rules, results, strict=True):
        for (threshold, quorum), found in zip(limits, result, strict=True):
            expected = numpy_vote(g, zero, tie, threshold, quorum)
            np.testing.assert_array_equal(found, np.broadcast_to(expected, g.shape))


def test_one_worker_without_an_axis_votes_by_the_same_rules():
    g = np.array([-2, -1, 0, 1, 2], np.float32)
    for zero, tie, threshold, quorum in itertools.product(
        ["abstain", "positive"], ["zero", "positive"], [0.0, 1.5], [0, 1]
    ):
        tx = eo.majority_vote(
            None, zero=zero, tie=tie, threshold=threshold, quorum=quorum)
        expected = numpy_vote(g[None], zero, tie, threshold, quorum)
        np.testing.assert_array_equal(tx.update(jnp.asarray(g), tx.init(g))[0],
                                      expected)


def test_the_threshold_does_not_follow_the_size_of_gradients():
    tx = eo.majority_vote(None, threshold=0.5)
    g = jnp.array([0.25, 0.5, -0.75])
    np.testing.assert_array_equal(tx.update(g, tx.init(g))[0], [0, 1, -1])
    np.testing.assert_array_equal(tx.update(g / 2, tx.init(g))[0], [0, 0, 0])
    np.testing.assert_array_equal(tx.update(g * 2, tx.init(g))[0], [1, 1, -1])


@pytest.mark.parametrize(("axis", "workers"), [(None, 1), (AXIS, 1), (AXIS, 3)])
def test_a_quorum_of_more_than_all_workers_is_refused(axis, workers):
    def step(g, quorum):
        tx = eo.majority_vote(axis, quorum=quorum)
        return tx.update(g, tx.init(g))[0]

    def run(quorum):
        return jax.vmap(lambda g: step(g, quorum), axis_name=AXIS)(
            jnp.ones((workers, 2)))

    chex.assert_trees_all_equal(run(workers), jnp.ones((workers, 2)))
    with pytest.raises(ValueError, match=f"quorum={workers + 1} is more than the "
                                         f"{workers} workers"):
        run(workers + 1)


# what is random


@pytest.mark.parametrize("mode", [
    pytest.param("vmap", marks=pytest.mark.slow), "pmap", "shard_map"])
def test_random_ties_are_common_fair_and_new_for_every_step_and_leaf(mode):
    half = np.ones((4, 3, CHANCES), np.float32)
    half[:2] = -1
    split = {"a": half, "b": half}
    tx = eo.majority_vote(AXIS, tie="random", key=0)
    updates, state = over_workers(steps_of(tx), mode, 4)(split)
    ties = first_of_equals(updates)
    draws = np.concatenate([ties["a"], ties["b"]])  # of six steps and leaves
    assert set(np.unique(draws)) == {-1, 1}
    products = draws @ draws.T / CHANCES
    assert (np.abs(products - np.eye(6)) < FAIR).all()
    assert (np.abs(draws.mean(1)) < FAIR).all()
    np.testing.assert_array_equal(np.asarray(state.count), 3)


def test_random_ties_leave_decided_coordinates_alone():
    rng = np.random.default_rng(0)
    g = rng.integers(-2, 3, (4, 1, 500)).astype(np.float32)
    tx = eo.majority_vote(AXIS, tie="random", key=jax.random.PRNGKey(3))
    found = first_of_equals(over_workers(steps_of(tx), "vmap", 4)(g)[0])[0]
    total = np.sign(g[:, 0]).sum(0)
    np.testing.assert_array_equal(found[total != 0], np.sign(total[total != 0]))
    assert set(np.unique(found[total == 0])) == {-1, 1}


def test_random_zeros_are_fair_and_each_workers_own():
    # Two of three workers are at odds, so that the third, at 0, decides.
    odds = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]], np.float32)
    g = np.broadcast_to(odds[:, :, None, None], (3, 3, 2, CHANCES))
    tx = eo.majority_vote(AXIS, zero="random", key=0)
    run = jax.jit(jax.vmap(jax.vmap(steps_of(tx), axis_name=AXIS)))
    found = np.asarray(run(g)[0])
    for decided in found:  # by one worker, in two steps
        first_of_equals(decided)
    draws = found[:, 0].reshape(6, CHANCES)
    assert set(np.unique(draws)) == {-1, 1}
    assert (np.abs(draws @ draws.T / CHANCES - np.eye(6)) < FAIR).all()


def test_random_zeros_and_random_ties_are_independent():
    # The first worker's fair vote against -1 gives -2 or a tie.
    g = np.zeros((2, 1, CHANCES), np.float32)
    g[1] = -1
    tx = eo.majority_vote(AXIS, zero="random", tie="random", key=0)
    found = first_of_equals(over_workers(steps_of(tx), "vmap", 2)(g)[0])
    assert abs(np.mean(found == 1) - 0.25) < FAIR


# many workers


@pytest.mark.parametrize("workers", [
    127, 128, pytest.param(300, marks=pytest.mark.slow)])
def test_votes_of_many_workers_are_exact_up_to_unanimity(workers):
    rng = np.random.default_rng(workers)
    g = rng.integers(-2, 3, (workers, 1, 64)).astype(np.float32)
    g[:, 0, 0], g[:, 0, 1] = 1, -1
    g[:, 0, 2], g[0, 0, 2] = 1, 0

    @functools.partial(over_workers, mode="vmap", workers=workers)
    def run(g):
        return [
            steps_of(tx)(g)[0]
            for tx in (eo.vote_sum(AXIS), eo.majority_vote(AXIS),
                       eo.majority_vote(AXIS, quorum=workers),
                       eo.majority_vote(AXIS, zero="positive", tie="positive"))
        ]

    total = np.sign(g).sum(0)
    assert total[0, 0] == workers and total[0, 1] == -workers
    expected = [
        total, numpy_vote(g, "abstain", "zero", 0, 0),
        numpy_vote(g, "abstain", "zero", 0, workers),
        numpy_vote(g, "positive", "positive", 0, 0),
    ]
    chex.assert_trees_all_equal(first_of_equals(run(g)), expected)

    # As many flags as workers must not overflow either.
    bad = np.full_like(g, np.nan)
    assert all(np.isnan(u).all() for u in run(bad))
    for value, worker in ((np.inf, 0), (np.nan, workers - 1)):
        one = g.copy()
        one[worker, 0, 5] = value
        assert all(np.isnan(u).all() for u in run(one))


@pytest.mark.parametrize("mode", [
    "vmap", pytest.param("pmap", marks=pytest.mark.slow), "shard_map"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_step_is_nan_for_all_and_draws_nothing(mode, value):
    rng = np.random.default_rng(0)
    good = {"a": signs(rng, 2, 3, 6), "b": np.zeros((2, 3, 4), np.float32)}
    bad = jax.tree.map(np.copy, good)
    bad["b"][1, 1, 0] = value
    without = jax.tree.map(lambda g: g[:, [0, 2, 2]], good)
    run = _random_votes(mode)
    updates, state = run(bad)
    expected, _ = run(without)
    updates, expected = first_of_equals((updates, expected))
    assert all(np.isnan(u[1]).all() for u in jax.tree.leaves(updates))
    chex.assert_trees_all_equal(jax.tree.map(lambda u: u[[0, 2]], updates),
                                jax.tree.map(lambda u: u[[0, 1]], expected))
    np.testing.assert_array_equal(np.asarray(state.count), 2)


@functools.cache
def _random_votes(mode):
    tx = eo.majority_vote(AXIS, zero="random", tie="random", key=1)
    return over_workers(steps_of(tx), mode, 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_votes_have_the_dtype_of_gradients(dtype):
    g = jnp.asarray([[[0.5, -2.0, 0.0]], [[1.0, 1.0, -1.0]]], dtype)
    for tx, expected in ((eo.majority_vote(AXIS), [1, 0, -1]),
                         (eo.vote_sum(AXIS), [2, 0, -1])):
        found = jax.vmap(steps_of(tx), axis_name=AXIS)(g)[0]
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.asarray(found[0, 0], np.float32), expected)


# one worker


@pytest.mark.parametrize("axis", [None, AXIS])
@pytest.mark.parametrize("name", ["sign_sgd", "signum"])
def test_one_worker_gives_optaxs_updates_bit_for_bit(name, axis):
    rate = optax.exponential_decay(0.1, 3, 0.7)
    rng = np.random.default_rng(0)
    grads = {"w": rng.normal(size=(1, 8, 3, 4)), "b": rng.integers(-1, 2, (1, 8, 6))}
    grads = jax.tree.map(lambda g: g.astype(np.float32), grads)
    ours, theirs = getattr(eo, name), getattr(optax, name)
    pairs = [(ours(rate, axis_name=axis), theirs(rate))]
    if name == "signum":
        pairs.append((ours(rate, 0.5, jnp.float32, axis_name=axis),
                      theirs(rate, 0.5, jnp.float32)))
    for tx, reference in pairs:
        found = over_workers(lambda g, tx=tx: steps_of(tx)(g)[0], "vmap", 1)(grads)
        expected = jax.jit(steps_of(reference))(jax.tree.map(lambda g: g[0], grads))[0]
        for n, updates in first_of_equals(found).items():
            assert updates.tobytes() == np.asarray(expected[n]).tobytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"zero": "negative"}, "zero must be one of 'abstain', 'positive', 'random'"),
        ({"tie": "abstain"}, "tie must be one of 'zero', 'positive', 'random'"),
        ({"tie": "random"}, "tie='random' needs a key, the same on all workers"),
        ({"zero": "random"}, "zero='random' needs a key"),
    ],
)
def test_rules_that_mean_nothing_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        eo.majority_vote(AXIS, **given)

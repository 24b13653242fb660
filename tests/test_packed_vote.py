"""Votes as bits: the same outcome as by psum, in the bits that are promised."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_tools import quick_compilation  # noqa: F401
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from mapping import AXIS, mapped

import ef_optax as eo

ZEROS, TIES = ("abstain", "positive", "random"), ("zero", "positive", "random")
# Zero and tie; threshold and quorum, which decide the bits where they are no tracers.
GRID = [(rule, (0.0, 0)) for rule in itertools.product(ZEROS, TIES)]
GRID += [(("abstain", "zero"), (1.5, 0)), (("positive", "zero"), (1.5, 2.5)),
         (("positive", "positive"), (0.0, 2.5)), (("positive", "random"), (0.0, 1))]
QUORUMS = [0, 0.5, 1, 2, 2.5, 3, 1e9]
equal = chex.assert_trees_all_equal


def votes_both_ways(axis, rules, grads, workers):
    """The updates of every rule, by psum and packed: [rule][wire] -> tree."""
    out = []
    for (zero, tie), (threshold, quorum) in rules:
        if isinstance(quorum, float | int):
            quorum = min(quorum, workers)
        txs = [
            eo.majority_vote(axis, wire=wire, zero=zero, tie=tie, key=5,
                             threshold=threshold, quorum=quorum)
            for wire in ("psum", "packed")
        ]
        out.append([tx.update(grads, tx.init(grads))[0] for tx in txs])
    return out


def assert_wires_agree(rules, found):
    """Asserts that both wires, and all workers [workers, ...], have the same bits."""
    assert len(rules) == len(found)
    for rule, (psum, packed) in zip(rules, jax.device_get(found), strict=True):
        for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(psum),
                                jax.tree.leaves(packed), strict=True):
            same = x.dtype == y.dtype and x.tobytes() == y.tobytes()
            assert same, (rule, path, x[0], y[0])
            assert len({copy.tobytes() for copy in y}) == 1, (rule, path)


def columns(workers):
    """Every combination of these gradients of few workers; of more, some of them."""
    values = [-2, -1, 0, 1, 2]
    if workers <= 3:
        return np.array(list(itertools.product(values, repeat=workers)), np.float32).T
    g = np.random.default_rng(workers).choice(values, (workers, 301))
    g[:, 0], g[:, 1], g[:, 2] = 1, -1, 0
    return g.astype(np.float32)


# the outcome


def test_every_rule_gives_what_psum_gives_for_all_that_three_workers_may_vote():
    def step(g):
        return votes_both_ways(AXIS, GRID, g, 3)

    assert_wires_agree(GRID, jax.jit(jax.vmap(step, axis_name=AXIS))(columns(3)))


# From nine workers on the planes are counted in a loop.
@pytest.mark.parametrize("workers", [
    2, 20, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 4, 5, 8))])
def test_traced_thresholds_and_quorums_give_what_psum_gives(workers):
    limits = list(itertools.product([0, 1, 1.5], [*QUORUMS, workers, workers + 1]))

    def step(g, threshold, quorum):
        rules = [
            (("positive", "positive"), (0.0, 0)),
            (("abstain", "random"), (threshold, quorum)),
            (("positive", "positive"), (0.0, quorum)),
        ]
        return votes_both_ways(AXIS, rules, g, workers)

    run = jax.vmap(step, in_axes=(0, None, None), axis_name=AXIS)
    found = jax.jit(jax.vmap(run, in_axes=(None, 0, 0)))(
        columns(workers), *(np.array(x, np.float32) for x in zip(*limits, strict=True)))
    for i, limit in enumerate(limits):
        assert_wires_agree([limit] * 3, jax.tree.map(lambda x, i=i: x[i], found))


MANY = [
    (("abstain", "positive"), (1.5, 0)), (("positive", "zero"), (0.0, 2.5)),
    (("positive", "positive"), (0.0, 300)),
]


def test_many_workers_up_to_unanimity():
    workers = 300
    g = columns(workers)[:, :65].copy()
    # Sums of -M .. M near all limits: by so many votes for, all others against.
    for i in range(20):
        g[:, 20 + i], g[:workers // 2 - 10 + i, 20 + i] = -1, 1
        g[:, 40 + i], g[:i, 40 + i] = 1, 0

    def step(g):
        return votes_both_ways(AXIS, MANY, g, workers)

    found = jax.jit(jax.vmap(step, axis_name=AXIS))(g)
    assert_wires_agree(MANY, found)
    unanimous = np.asarray(found[-1][1][0])
    assert unanimous[0] == 1 and unanimous[1] == -1 and unanimous[39] == 0


# trees


def odd_tree(workers, seed=0):
    """Leaves of sizes that no byte and no number of workers divides, many dtypes."""
    rng = np.random.default_rng(seed)
    shapes = {"half": (5, 3), "float16": (), "empty": (0, 3), "long": (61,)}
    dtypes = {"half": jnp.bfloat16, "float16": jnp.float16}
    return {name: jnp.asarray(rng.integers(-2, 3, (workers, *shape)),
                              dtypes.get(name, jnp.float32))
            for name, shape in shapes.items()} | {"none": None}


TREE_RULES = [(("abstain", "random"), (0.0, 0))]


@pytest.mark.parametrize(("mode", "workers"), [
    ("shard_map", 8), ("pair, shard_map", 4),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("pmap", 3), ("pair, vmap", 4)))])
def test_trees_of_odd_sizes_and_many_dtypes_in_every_mode(mode, workers):
    grads = odd_tree(workers)

    def step(axis, g):
        return votes_both_ways(axis, TREE_RULES, g, workers)

    found = mapped(lambda axis: functools.partial(step, axis), mode, workers)(grads)
    assert_wires_agree(TREE_RULES, found)
    for _, packed in found:
        assert jax.tree.map(lambda x: (x.shape, x.dtype), packed) == jax.tree.map(
            lambda x: (x.shape, x.dtype), grads)


def test_a_loop_over_the_planes_is_typed_where_types_tell_workers_apart():
    # More planes than these tests have devices for: only traced.
    mesh = AbstractMesh((20,), (AXIS,), axis_types=(AxisType.Auto,))
    vote = eo.majority_vote(AXIS, wire="packed", tie="random", key=0, quorum=1)

    def update(g):
        return vote.update(g, vote.init(g))

    jaxpr = jax.make_jaxpr(jax.shard_map(
        update, mesh=mesh, in_specs=P(AXIS), out_specs=P()))(jnp.ones((20, 3)))
    body = str(jaxpr.jaxpr.eqns[0].params["jaxpr"])
    assert "scan[" in body and "all_to_all[" in body


def test_a_tree_of_no_numbers_passes():
    vote = eo.majority_vote(AXIS, wire="packed")
    step = jax.jit(jax.vmap(lambda g: vote.update(g, vote.init(g))[0], axis_name=AXIS,
                            axis_size=2))
    for tree in ({"none": None}, {"empty": jnp.zeros((2, 0))}):
        equal(step(tree), tree)


def test_one_worker_without_an_axis_votes_by_the_same_rules():
    rules = [*GRID[::4], (("abstain", "positive"), (1.5, 0.5))]
    found = jax.jit(lambda g: votes_both_ways(None, rules, g, 1))(
        jnp.array([-2.0, -1, 0, 1, 2]))
    assert_wires_agree(rules, jax.tree.map(lambda x: x[None], found))


# what is random, and what is not finite


def test_steps_draw_as_psum_draws_and_a_non_finite_one_leaves_no_trace():
    workers = 4
    rng = np.random.default_rng(0)
    good = {"a": rng.integers(-1, 2, (workers, 3, 30)).astype(np.float32),
            "b": rng.integers(-1, 2, (workers, 3)).astype(np.float32)}
    bads = []
    for value, worker in ((np.nan, 0), (np.inf, 3), (-np.inf, 1)):
        bad = jax.tree.map(np.copy, good)
        bad["b"][worker, 1] = value
        bads.append(bad)

    def steps(axis, grads):
        out = []
        for wire in ("psum", "packed"):
            tx = eo.majority_vote(axis, wire=wire, zero="random", tie="random", key=3)
            first = tx.init(jax.tree.map(lambda x: x[0], grads))
            out.append(jax.lax.scan(
                lambda state, g, tx=tx: tx.update(g, state)[::-1], first, grads))
        return out

    run = mapped(lambda axis: functools.partial(steps, axis), "shard_map", workers)
    (_, psum), (state, packed) = run(good)
    assert_wires_agree(["good"], [(psum, packed)])
    np.testing.assert_array_equal(state.count, 3)
    (_, _), (_, without) = run(jax.tree.map(lambda x: x[:, [0, 2, 2]], good))
    for bad in bads:
        (_, psum), (state, packed) = run(bad)
        assert_wires_agree(["bad"], [(psum, packed)])
        np.testing.assert_array_equal(state.count, 2)
        assert all(np.isnan(x[:, 1]).all() for x in jax.tree.leaves(packed))
        equal(jax.tree.map(lambda x: x[:, [0, 2]], packed),
              jax.tree.map(lambda x: x[:, :2], without))


@pytest.mark.parametrize("workers", [1, 3, 300])
def test_as_many_flags_as_workers_are_still_one(workers):
    vote = eo.majority_vote(AXIS, wire="packed", zero="positive", tie="positive")

    run = jax.jit(jax.vmap(lambda g: vote.update(g, ())[0], axis_name=AXIS))
    g = np.ones((workers, 3), np.float32)
    one = g.copy()
    one[-1, 2] = np.inf
    np.testing.assert_array_equal(run(g), g)
    for bad in (g * np.nan, one):
        assert np.isnan(run(bad)).all()


def test_random_ties_are_fair_and_new_for_every_leaf():
    g = np.ones((4, 4096), np.float32)
    g[:2] = -1
    vote = eo.majority_vote(AXIS, wire="packed", tie="random", key=0)
    found = jax.jit(jax.vmap(lambda g: vote.update(g, vote.init(g))[0],
                             axis_name=AXIS))({"a": g, "b": g})
    a, b = np.asarray(found["a"][0]), np.asarray(found["b"][0])
    assert set(np.unique(a)) == {-1, 1}
    assert max(abs(a.mean()), abs(b.mean()), abs((a * b).mean())) < 5 / 64


# what crosses


SHAPES = [(3, 5), (), (0, 2), (300,)]
PROMISES = [
    # rule, workers, bits a coordinate there, and back
    (dict(), 4, 2, 2),
    (dict(tie="positive"), 4, 2, 1),
    (dict(zero="positive"), 4, 1, 2),
    (dict(zero="positive"), 3, 1, 1),  # no tie is possible
    (dict(zero="positive", threshold=0.5), 3, 2, 2),
    (dict(zero="positive", tie="positive"), 4, 1, 1),
    (dict(zero="positive", tie="positive", quorum=1), 4, 1, 2),
    (dict(zero="positive", tie="positive", threshold=0.5), 3, 2, 1),
]


def report_of(tx, workers, shapes):
    """Reads the compiled update of float32 leaves of these shapes."""
    def update(g):
        params = [jnp.zeros(s) for s in shapes]
        return tx.update(g, tx.init(params), params)[0]

    mesh = jax.make_mesh((workers,), (AXIS,), devices=jax.devices()[:workers],
                         axis_types=(AxisType.Auto,))
    step = jax.jit(jax.shard_map(
        lambda g: update([x[0] for x in g]), mesh=mesh, in_specs=P(AXIS),
        out_specs=P(), check_vma=True))
    grads = [jax.ShapeDtypeStruct((workers, *s), jnp.float32) for s in shapes]
    return eo.wire_report(step, grads, parameters=sum(map(np.prod, shapes)))


def assert_crosses(report, workers, shapes, there, back):
    row = -(-sum(-(-int(np.prod(s)) // 8) for s in shapes) // workers)
    flag = 1
    assert sorted((c.kind, c.dtype, c.size, c.times) for c in report.collectives) == [
        ("all-gather", "u8", back * row + flag, 1),
        ("all-to-all", "u8", workers * (there * row + flag), 1),
    ]
    assert report.bytes_sent == (workers - 1) * ((there + back) * row + 2 * flag)


@pytest.mark.parametrize(
    ("rule", "workers", "there", "back"), PROMISES,
    ids=[f"{workers}-{rule}" for rule, workers, _, _ in PROMISES])
def test_two_collectives_of_one_or_two_bits_as_documented(rule, workers, there, back):
    key = 0 if "random" in rule.values() else None
    tx = eo.majority_vote(AXIS, wire="packed", key=key, **rule)
    shapes = SHAPES * 4 if rule == {} else SHAPES
    assert_crosses(report_of(tx, workers, shapes), workers, shapes, there, back)


def test_an_injected_threshold_or_quorum_takes_the_second_bit():
    shapes = [(40,)]
    for limit, there, back in (("threshold", 2, 1), ("quorum", 1, 2)):
        def update(g, value, limit=limit):
            tx = eo.majority_vote(AXIS, wire="packed", zero="positive", tie="positive",
                                  **{limit: value})
            return tx.update(g, tx.init(g))[0]

        step = jax.pmap(update, AXIS, in_axes=(0, None), devices=jax.devices()[:4])
        report = eo.wire_report(step, jnp.ones((4, 40)), 0.0)
        assert_crosses(report, 4, shapes, there, back)


# optimizers


@pytest.mark.parametrize("make", [
    pytest.param(eo.sign_sgd, marks=pytest.mark.slow), eo.signum])
def test_optimizers_step_the_same_by_either_wire_and_send_bits(make):
    shapes, workers = [(5, 3), (17,), ()], 4
    rng = np.random.default_rng(0)
    grads = [rng.integers(-2, 3, (workers, 3, *s)).astype(np.float32) for s in shapes]
    rule = dict(zero="positive", tie="positive", weight_decay=0.25)
    by_psum, packed = (make(0.5, axis_name=AXIS, wire=wire, **rule)
                       for wire in ("psum", "packed"))

    def steps(grads):
        out = []
        for tx in (by_psum, packed):
            params = [x[0] for x in grads]
            out.append(jax.lax.scan(
                lambda state, g, tx=tx, p=params: tx.update(g, state, p)[::-1],
                tx.init(params), grads)[1])
        return out

    psum, bits = jax.jit(jax.vmap(steps, axis_name=AXIS))(grads)
    equal(jax.device_get(bits), jax.device_get(psum))
    assert_crosses(report_of(packed, workers, shapes), workers, shapes, 1, 1)


def test_an_unknown_wire_is_refused():
    makes = (functools.partial(eo.majority_vote, AXIS),
             functools.partial(eo.sign_sgd, 0.1), functools.partial(eo.signum, 0.1))
    for make in makes:
        with pytest.raises(ValueError, match="wire must be one of 'psum', 'packed'"):
            make(wire="bits")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_quorum_of_more_than_all_workers_is_refused(workers):
    tx = eo.majority_vote(AXIS, wire="packed", quorum=workers + 1)
    with pytest.raises(ValueError, match=f"more than the {workers} workers"):
        jax.vmap(lambda g: tx.update(g, tx.init(g)), axis_name=AXIS)(
            jnp.ones((workers, 2)))

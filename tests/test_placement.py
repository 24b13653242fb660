"""Workers under plain jit: over_workers, worker_mesh and state_specs."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from contract import CASES, LIGHT, every
from contract_tools import (
    assert_close,
    assert_same,
    compilations,
    quick_compilation,  # noqa: F401
)
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from placement_tools import AXIS, COUNT, PAIR, PARAMS, at, gradients, mesh_of, momentum

import ef_optax as eo
from ef_optax.workers import per_worker_leaves

pytestmark = pytest.mark.filterwarnings("ignore:No contraction is known")

CROSSING = [
    name for name, case in CASES.items() if case.crosses and "workers" not in case.skip
]
QUICK = (
    "ef_scaled_sign", "ef_random_k", "vote_random", "accept_if_lower", "accumulate_two",
)
# Norms, decompositions, Gaussian noise, factors like 0.9: equal up to rounding.
ROUNDS = (
    "block", "k_pca", "measures", "noise", "random_k_scaled", "signum",
    "skip_nonfinite", "stochastic",
)


def train(tx, extra, params=PARAMS):
    """Returns the last state and all updates of some steps."""

    def run(grads):
        def step(state, g):
            return tx.update(g, state, params, **extra)[::-1]

        return lax.scan(step, tx.init(params), grads)

    return run


def by_shard_map(tx, extra, axis=AXIS):
    """The same with the state made and kept inside of jax.shard_map."""
    mesh = mesh_of(axis)
    shapes = jax.eval_shape(eo.over_workers(tx, mesh, axis).init, PARAMS)

    def run(grads):
        state, updates = train(tx, extra)(jax.tree.map(lambda g: g[:, 0], grads))
        return jax.tree.map(
            lambda x, own: x[None] if own else x, state, per_worker_leaves(state)
        ), updates

    return jax.shard_map(
        run, mesh=mesh, in_specs=P(None, axis),
        out_specs=(eo.state_specs(shapes, axis), P()))


def by_vmap(tx, extra):
    """The same by vmap; what is the same on all workers is that of the first."""

    def run(grads):
        state, updates = jax.vmap(train(tx, extra), 1, axis_name=AXIS)(grads)
        return jax.tree.map(
            lambda x, own: x if own else x[0], state, per_worker_leaves(state)
        ), at(0, updates)

    return run


# what it computes


def slow_but(quick, names):
    """Parametrizes a test over cases, which take seconds to compile, by name."""
    return pytest.mark.parametrize("name", [
        pytest.param(name, marks=() if name in quick else pytest.mark.slow)
        for name in names
    ])


@slow_but(QUICK[:2], CROSSING)
def test_under_jit_it_does_what_vmap_does(name):
    case = CASES[name]
    grads, tx = gradients(2), case.make(AXIS)
    found = jax.jit(train(eo.over_workers(tx, mesh_of()), case.extra))(grads)
    same = assert_close if any(word in name for word in ROUNDS) else assert_same
    same(found, jax.jit(by_vmap(tx, case.extra))(grads))


@slow_but(QUICK, LIGHT)
def test_over_two_explicit_axes_it_is_the_shard_map_written_by_hand(name):
    case = CASES[name]
    grads, tx = gradients(2), case.make(PAIR)
    mesh = mesh_of(PAIR, AxisType.Explicit)
    placed = jax.device_put(grads, NamedSharding(mesh, P(None, PAIR)))
    found = jax.jit(train(eo.over_workers(tx, mesh, PAIR), case.extra))(placed)
    assert_same(found, jax.jit(by_shard_map(tx, case.extra, PAIR))(grads))


@every(CROSSING)
def test_types_say_what_is_split_and_scan_keeps_them(case, axis=PAIR):
    mesh = mesh_of(axis, AxisType.Explicit)
    tx = eo.over_workers(case.make(axis), mesh, axis)
    # What the types of explicit meshes know, without compiling anything.
    grads = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
        (COUNT, *x.shape), x.dtype, sharding=NamedSharding(mesh, P(axis))), PARAMS)
    before = jax.eval_shape(tx.init, PARAMS)
    updates, after = jax.eval_shape(
        lambda g, s: tx.update(g, s, PARAMS, **case.extra), grads, before)

    def placed(tree):
        return [(x.shape, x.dtype, names(x.sharding.spec)) for x in
                jax.tree.leaves(tree)]

    assert placed(updates) == [(x.shape, x.dtype, ()) for x in jax.tree.leaves(PARAMS)]
    assert placed(after) == placed(before)
    specs = jax.tree.leaves(eo.state_specs(before, axis))
    own = jax.tree.leaves(per_worker_leaves(before))
    for x, spec, mine in zip(jax.tree.leaves(before), specs, own, strict=True):
        assert names(x.sharding.spec) == names(spec) == ((axis,) if mine else ())
        assert not mine or x.shape[0] == COUNT


def names(spec):
    return tuple(entry for entry in spec if entry is not None)


# where the state is


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_what_a_worker_has_is_on_its_device_only(kind):
    mesh = mesh_of(kind=kind)
    tx = eo.over_workers(momentum(exchange=eo.two_way()), mesh)
    state = tx.init(PARAMS)
    updates, after = tx.update(at(0, gradients(1)), state, PARAMS)
    assert len(set(jax.tree.leaves(per_worker_leaves(state)))) == 2
    for each in (state, after):
        own = jax.tree.leaves(per_worker_leaves(each))
        for x, mine in zip(jax.tree.leaves(each), own, strict=True):
            assert [s.device for s in x.addressable_shards] == list(mesh.devices)
            for worker, shard in enumerate(x.addressable_shards):
                assert shard.data.shape == ((1, *x.shape[1:]) if mine else x.shape)
                assert not mine or shard.index[0] == slice(worker, worker + 1)
    # The server's rows: a quarter of each leaf.
    error = state[1].exchange.error
    assert jax.tree.map(jnp.shape, error) == {
        "half": (4, 2), "matrix": (4, 2)}
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(updates))


def test_state_and_gradients_are_updated_in_place():
    mesh = mesh_of()
    tx = eo.over_workers(momentum(compressor=eo.random_k(k=2)), mesh)
    grads = jax.device_put(at(0, gradients(1)), NamedSharding(mesh, P(AXIS)))
    state = tx.init(PARAMS)
    step = jax.jit(tx.update, donate_argnums=(0, 1))
    expected = tx.update(grads, state, PARAMS)
    given = grads, state
    memory = step.lower(*given, PARAMS).compile().memory_analysis()
    donated = sum(s.data.nbytes for x in jax.tree.leaves(values_of(given))
                  for s in x.addressable_shards[:1])
    assert memory.alias_size_in_bytes == donated
    found = step(*given, PARAMS)
    assert all(x.is_deleted() for x in jax.tree.leaves(given))
    assert_same(found, expected)


def values_of(tree):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def test_parameters_that_a_state_holds_survive_its_donation():
    holds = optax.GradientTransformation(lambda p: p, lambda g, s, p=None: (g, s))
    tx = eo.over_workers(optax.chain(eo.majority_vote(AXIS), holds), mesh_of())
    state = tx.init(PARAMS)
    jax.jit(tx.update, donate_argnums=1)(at(0, gradients(1)), state)
    assert not any(x.is_deleted() for x in jax.tree.leaves(PARAMS))


@pytest.mark.parametrize("around", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_nothing_is_compiled_twice(around):
    mesh = mesh_of()
    tx = eo.over_workers(
        optax.chain(momentum(), optax.contrib.reduce_on_plateau()), mesh)
    grads = jax.device_put(at(0, gradients(1)), NamedSharding(mesh, P(AXIS)))
    init, update = around(tx.init), around(tx.update)
    params = jax.device_put(PARAMS, NamedSharding(mesh, P()))
    update(grads, init(params), params, value=jnp.ones(()))
    with compilations() as found:
        for _ in range(2):
            update(grads, init(params), params, value=jnp.ones(()))
    assert not found


# extra arguments


def test_extra_arguments_are_the_same_for_all_workers():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, cooldown=0)
    tx = eo.over_workers(optax.chain(eo.majority_vote(AXIS), plateau), mesh_of())
    alone = optax.chain(eo.majority_vote(None), plateau)
    grads = at(0, gradients(1))
    state, expected_state = tx.init(PARAMS), alone.init(PARAMS)
    total = jax.tree.map(lambda g: jnp.sum(jnp.sign(g), 0), grads)
    update, reference = jax.jit(tx.update), jax.jit(alone.update)
    for _ in range(4):
        updates, state = update(grads, state, PARAMS, value=1.0)
        expected, expected_state = reference(
            total, expected_state, PARAMS, value=1.0)
        chex.assert_trees_all_equal(updates, expected)
    assert float(optax.tree.get(state, "scale")) < 1


@pytest.mark.parametrize("around", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_a_function_among_them_may_close_over_the_batch(around):
    tx = eo.over_workers(eo.accept_if_lower(eo.sign_sgd(1.0, axis_name=AXIS)),
                         mesh_of())
    x = jnp.array([2.0, 2.0])

    def loss(x, target):
        return jnp.sum((x - target) ** 2)

    @around
    def step(targets, state):
        grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(x, targets)
        # All that are given: of no worker alone.
        return tx.update(grads, state, x, value_fn=lambda y: sum(
            loss(y, targets[i]) for i in range(COUNT)))

    updates, state = step(jnp.zeros((COUNT, 2)), tx.init(x))
    chex.assert_trees_all_equal(updates, jnp.array([-1.0, -1.0]))
    assert state.accepted
    # From 2 towards 1.75 a step of 1 is too long.
    updates, state = step(jnp.full((COUNT, 2), 1.75), state)
    assert not state.accepted and not updates.any()


# inside and around optax


def test_what_follows_outside_sees_one_update():
    tx = optax.chain(
        eo.over_workers(eo.majority_vote(AXIS), mesh_of()), optax.sgd(0.5, 0.5))
    grads = at(0, gradients(1))
    updates, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, jax.tree.map(
        lambda g: -0.5 * jnp.sign(jnp.sum(jnp.sign(g), 0)), grads))
    assert set(jax.tree.leaves(eo.state_specs(state))) == {P()}


def test_optax_maps_and_masks_it():
    tx = eo.over_workers(momentum(), mesh_of())
    state = tx.init(PARAMS)
    ones = optax.tree.map_params(tx, jnp.ones_like, state)
    assert_same(ones[1].error, jax.tree.map(jnp.ones_like, state[1].error))
    assert_same(ones[1].count, state[1].count)
    grads = at(0, gradients(1))
    masked = optax.masked(tx, {"half": False, "matrix": True})
    updates, _ = masked.update(grads, masked.init(PARAMS), PARAMS)
    assert updates["half"] is grads["half"]
    expected, _ = tx.update(grads, state, PARAMS)
    chex.assert_trees_all_equal(updates["matrix"], expected["matrix"])


def test_gradients_come_from_a_vmap_without_a_collective_of_their_own():
    mesh = mesh_of()
    tx = eo.over_workers(eo.ef_sign_sgd(0.125, axis_name=AXIS), mesh)

    def loss(params, batch):
        return jnp.mean((batch @ params["w"]) ** 2)

    def step(params, state, batches):
        grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batches)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.device_put({"w": jnp.ones((3, 2))}, NamedSharding(mesh, P()))
    batches = jax.device_put(jnp.ones((COUNT, 5, 3)), NamedSharding(mesh, P(AXIS)))
    text = jax.jit(step).lower(
        params, tx.init(params), batches).compile().as_text()
    lines = [line for line in text.splitlines() if " = " in line]
    assert sum("all-gather(" in line or "all-gather-start(" in line
               for line in lines) == 1
    assert not any("all-reduce(" in line or "all-to-all(" in line for line in lines)


def test_a_nan_of_one_worker_changes_nothing():
    tx = eo.over_workers(momentum(), mesh_of())
    grads = at(0, gradients(1))
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    bad = grads | {"half": grads["half"].at[2, 1].set(jnp.nan)}
    updates, after = tx.update(bad, state, PARAMS)
    assert all(jnp.isnan(x).all() for x in jax.tree.leaves(updates))
    assert_same(after[1]._replace(count=state[1].count), state[1])


# specs


def test_specs_place_restore_and_enter_a_shard_map():
    mesh = mesh_of(PAIR)
    tx = eo.over_workers(momentum(PAIR), mesh, PAIR)
    grads = at(0, gradients(1))
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    specs = eo.state_specs(jax.eval_shape(tx.init, PARAMS), PAIR)
    assert specs[1].error["half"] == P(PAIR) and specs[1].count == P()
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    on_one = jax.device_put(state, jax.devices()[0])
    again = jax.device_put(on_one, shardings)
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    step = jax.jit(lambda g, s: tx.update(g, s, PARAMS),
                   in_shardings=(NamedSharding(mesh, P(PAIR)), shardings),
                   out_shardings=(NamedSharding(mesh, P()), shardings))
    assert_same(step(grads, again), tx.update(grads, state, PARAMS))
    sums = jax.jit(jax.shard_map(
        lambda s: eo.Workers(PAIR).sum(s[1].error), mesh=mesh, in_specs=(specs,),
        out_specs=P()))(state)
    chex.assert_trees_all_equal(
        sums, jax.tree.map(lambda e: e.sum(0, keepdims=True), state[1].error))

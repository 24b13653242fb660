"""resize_workers: what is kept when the number of workers changes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import CASES, every
from contract_tools import assert_types, quick_compilation  # noqa: F401
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax as eo
from ef_optax.workers import per_worker_leaves

pytestmark = pytest.mark.filterwarnings("ignore:No contraction is known")

AXIS = "workers"
PARAMS = {"w": jnp.arange(15.0).reshape(3, 5) / 8, "b": jnp.ones(4), "s": jnp.ones(())}
equal = chex.assert_trees_all_equal
# What compress and a vote have is the same for all workers.
OWN = [name for name, case in CASES.items()
       if case.crosses and not name.startswith(("compress", "vote"))]


def over_workers(tx, count):
    return eo.over_workers(tx, eo.worker_mesh(count))


def shapes_of(tx, count, params=PARAMS):
    return jax.eval_shape(over_workers(tx, count).init, params)


def state_of(tx, count, seed=0):
    """Returns the state of so many workers: what is a worker's own differs."""
    rng = np.random.default_rng(seed)

    def start(_):
        return tx.init(PARAMS)

    # Not compiled: every worker's first state, what all have alike in it too.
    first = jax.vmap(start, axis_name=AXIS)(jnp.arange(count))

    def fill(x, own):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(seed), count) if own else x[0]
        numbers = rng.integers(1, 99, x.shape) / 8
        return numbers.astype(x.dtype) if own else np.asarray(x[0])

    return jax.tree.map(fill, first, per_worker_leaves(first))


def own_of(state):
    """Returns the leaves that belong to one worker, and the others; no shards."""

    def is_server(node):
        return isinstance(node, eo.TwoWayState)

    state = jax.tree.map(
        lambda x: None if is_server(x) else x, state, is_leaf=is_server)
    marks = jax.tree.leaves(per_worker_leaves(state))
    pairs = list(zip(jax.tree.leaves(state), marks, strict=True))
    return [x for x, own in pairs if own], [x for x, own in pairs if not own]


# Every transformation, and optax's wrappers around some.

CHAINS = {
    "signum": eo.signum(0.1, axis_name=AXIS),
    "accumulate": eo.accumulate(eo.ef_sign_sgd(0.1, axis_name=AXIS), 3, AXIS),
    "two_way": eo.accumulate(eo.ef_sign_sgd(
        0.1, axis_name=AXIS, exchange=eo.two_way(), momentum=0.5), 2, AXIS),
    "skip": eo.skip_nonfinite(eo.signum(0.1, axis_name=AXIS)),
    "chain": optax.chain(optax.clip(1.0), eo.ef_sign_sgd(
        0.1, axis_name=AXIS, momentum=0.5), optax.trace(0.5)),
    "named_chain": optax.named_chain(
        ("momentum", eo.local(optax.scale_by_adam(), AXIS)),
        ("vote", eo.majority_vote(AXIS))),
    "masked": optax.masked(
        eo.ef_sign_sgd(0.1, axis_name=AXIS), {"w": True, "b": False, "s": True}),
    "partition": optax.partition(
        {"a": eo.ef_sign_sgd(0.1, axis_name=AXIS), "b": eo.signum(0.1, axis_name=AXIS)},
        {"w": "a", "b": "b", "s": "b"}),
    "inject": optax.inject_hyperparams(eo.ef_sign_sgd, static_args=("axis_name",))(
        0.1, axis_name=AXIS, momentum=0.9),
    "local_inject": eo.local(optax.inject_hyperparams(optax.trace)(0.9), AXIS),
    "local_noise": eo.local(optax.add_noise(0.1, 0.5, jax.random.key(1)), AXIS),
    "exempt": eo.exempt(eo.error_feedback(eo.top_k(k=1), axis_name=AXIS),
                        lambda tree: jax.tree.map(lambda x: x.ndim < 2, tree), AXIS),
}


def check_shapes_and_means(tx, kinds=((4, 3), (1, 5), (6, 1))):
    for old, new in kinds:
        state = state_of(tx, old)
        resized = eo.resize_workers(state, new)
        assert_types(jax.tree.map(jnp.asarray, resized), shapes_of(tx, new))
        (before, rest), (after, other) = own_of(state), own_of(resized)
        assert all(x is y for x, y in zip(rest, other, strict=True))
        for x, y in zip(before, after, strict=True):
            if not jnp.issubdtype(x.dtype, jnp.floating):
                continue
            assert isinstance(y, np.ndarray) and y.flags.writeable
            mean = x.astype(np.float64).mean(0).astype(x.dtype)
            equal(y, np.stack([mean] * new))


@every(OWN)
def test_the_state_of_every_transformation_fits_the_new_workers(case):
    case.needs("workers")
    # All at once would be slow; the wrappers below see growing and shrinking.
    check_shapes_and_means(case.make(AXIS), [(4, 3)])


@pytest.mark.parametrize("name", CHAINS)
def test_it_finds_what_belongs_to_a_worker_in_chains_and_wrappers(name):
    check_shapes_and_means(CHAINS[name])


# Trajectories.


def leaf_error(node, like):
    """Returns what a node of a state still owes to the parameters, like them."""
    if isinstance(node, eo.ErrorFeedbackState):
        owed = jax.tree.map(lambda e: np.asarray(e, np.float64).mean(0), node.error)
        server = leaf_error(node.exchange, like)
        return owed if server is None else jax.tree.map(np.add, owed, server)
    if isinstance(node, eo.TwoWayState):
        return jax.tree.map(
            lambda e, p: np.asarray(e, np.float64).ravel()[:p.size].reshape(p.shape),
            node.error, like)
    return None


@pytest.mark.parametrize("exchange", [None, eo.two_way()], ids=repr)
def test_parameters_plus_mean_error_follow_the_plain_updates_across_resizes(exchange):
    tx = eo.error_feedback(eo.scaled_sign(), axis_name=AXIS, exchange=exchange)
    params, state = PARAMS, None
    due = jax.tree.map(np.float64, PARAMS)
    rng = np.random.default_rng(0)
    for count in (4, 2, 3):
        mapped = over_workers(tx, count)
        if state is None:
            state = mapped.init(params)
        else:
            before = leaf_error(state, PARAMS)
            state = eo.resize_workers(jax.device_get(state), count)
            after = leaf_error(state, PARAMS)
            chex.assert_trees_all_close(after, before, rtol=1e-6, atol=1e-6)
        params = jax.device_get(params)
        for _ in range(2):
            grads = jax.tree.map(
                lambda x, n=count: rng.standard_normal((n, *x.shape)).astype(x.dtype),
                PARAMS)
            updates, state = mapped.update(grads, state, params)
            params = jax.device_get(optax.apply_updates(params, updates))
            due = jax.tree.map(lambda d, g: d + g.astype(float).mean(0), due, grads)
        owed = leaf_error(state, PARAMS)
        assert np.any(owed["w"])
        total = jax.tree.map(np.add, jax.tree.map(np.float64, params), owed)
        chex.assert_trees_all_close(total, due, rtol=1e-5, atol=1e-5)


def test_a_model_that_is_split_over_a_second_mesh_axis_keeps_its_shards():
    specs = {"w": P(None, "model"), "b": P()}
    params = {"w": jnp.zeros((3, 6)), "b": jnp.zeros(5)}
    tx = eo.error_feedback(
        eo.scaled_sign(), axis_name=AXIS, exchange=eo.two_way())
    rng = np.random.default_rng(0)

    def owed(state):
        rows = state.exchange.error["w"]
        count = len(rows)
        # [worker, part, row] -> [part, flat] -> the parts side by side.
        parts = np.asarray(rows).reshape(count, 2, -1).swapaxes(0, 1).reshape(2, -1)
        w = np.concatenate([p[:9].reshape(3, 3) for p in parts], 1)
        server = {"w": w, "b": np.asarray(state.exchange.error["b"]).ravel()[:5]}
        return jax.tree.map(lambda e, s: np.asarray(e).mean(0) + s, state.error, server)

    def mapped(count):
        mesh = jax.make_mesh((count, 2), (AXIS, "model"), devices=jax.devices()[
            :2 * count], axis_types=(jax.sharding.AxisType.Auto,) * 2)
        return mesh, eo.over_workers(tx, mesh, param_specs=specs)

    due = params
    state = None
    for count in (4, 2, 3):
        mesh, outer = mapped(count)
        if state is None:
            state = outer.init(params)
        else:
            with pytest.raises(ValueError, match="split over a mesh axis of the model"):
                eo.resize_workers(state, count)
            state = eo.resize_workers(
                jax.device_get(state), count, mesh=mesh, param_specs=specs)
            placed = eo.state_specs(state, param_specs=specs)
            state = jax.device_put(
                state, jax.tree.map(lambda s, m=mesh: NamedSharding(m, s), placed))
        params = jax.device_get(params)
        for _ in range(2):
            grads = jax.tree.map(
                lambda x, n=count: rng.standard_normal((n, *x.shape)).astype(x.dtype),
                params)
            updates, state = outer.update(grads, state, params)
            params = jax.device_get(optax.apply_updates(params, updates))
            due = jax.tree.map(lambda d, g: d + g.mean(0), due, grads)
        total = jax.tree.map(np.add, params, owed(jax.device_get(state)))
        chex.assert_trees_all_close(total, due, rtol=1e-4, atol=1e-5)


# Shards.


@pytest.mark.parametrize("size", [0, 1, 7, 8, 13, 64])
def test_shards_are_cut_anew_bit_for_bit(size):
    rng = np.random.default_rng(size)
    whole = rng.standard_normal(size).astype(np.float32)
    other = rng.standard_normal(3).astype(np.float16)

    def state_for(count):
        rows = [-(-n // count) for n in (size, 3)]
        error = [np.pad(x, (0, count * r - x.size)).reshape(count, r)
                 for x, r in zip((whole, other), rows, strict=True)]
        padding = np.array([count * rows[0] - size, count * rows[1] - 3], np.int32)
        return eo.TwoWayState(error, optax.EmptyState(), padding)

    for old in (1, 2, 3, 8):
        for new in (1, 2, 3, 5, 8, 13):
            resized = eo.resize_workers(state_for(old), new)
            equal(resized, state_for(new))
            assert all(x.dtype == y.dtype for x, y in zip(
                jax.tree.leaves(resized), jax.tree.leaves(state_for(new)), strict=True))


# Leaves that are no means.


def local(inner):
    return eo.LocalState(inner=inner)


def test_integers_are_carried_or_the_largest_and_booleans_are_any():
    state = local({"same": np.array([7, 7]), "differ": np.array([3, 9], np.int8),
                   "bool": np.array([[True, False], [True, True]])})
    new = eo.resize_workers(state, 3).inner
    equal(new, {"same": np.array([7] * 3), "differ": np.array([9] * 3, np.int8),
                "bool": np.array([[True, True]] * 3)})
    assert new["differ"].dtype == np.int8


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_workers_keep_their_keys_and_new_ones_draw_others(raw, impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), 3)
    leaf = np.asarray(jax.random.key_data(keys)) if raw else keys
    bits = jax.random.key_data
    grown = eo.resize_workers(local(leaf), 8).inner
    assert isinstance(grown, np.ndarray) == raw and grown.dtype == leaf.dtype
    shrunk = eo.resize_workers(local(leaf), 2).inner
    grown, shrunk = (x if raw else np.asarray(bits(x)) for x in (grown, shrunk))
    equal(grown[:3], np.asarray(bits(keys)))
    equal(shrunk, np.asarray(bits(keys))[:2])
    assert len({key.tobytes() for key in grown}) == 8


def test_adam_among_the_workers_own_state_goes_on():
    tx = eo.local(optax.scale_by_adam(), AXIS)
    state = eo.LocalState(optax.ScaleByAdamState(
        count=np.array([5, 5], np.int32), mu={"w": np.array([[1.0], [2.0]])},
        nu={"w": np.array([[4.0], [8.0]])}))
    new = eo.resize_workers(state, 3)
    equal(new.inner, optax.ScaleByAdamState(
        count=np.array([5] * 3), mu={"w": np.full((3, 1), 1.5)},
        nu={"w": np.full((3, 1), 6.0)}))
    mapped = jax.vmap(tx.update, axis_name=AXIS)
    _, after = mapped({"w": jnp.ones((3, 1))}, jax.tree.map(jnp.asarray, new))
    equal(after.inner.count, jnp.full(3, 6))


def test_means_are_taken_in_float64():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.full(1, 2.0**24), np.ones(7)]).astype(np.float32)
    half = jnp.asarray(rng.standard_normal((8, 3)) * 100, jnp.bfloat16)
    new = eo.resize_workers(local((x, half)), 2).inner
    equal(new[0], np.full(2, (2.0**24 + 7) / 8, np.float32))
    assert isinstance(new[1], jax.Array) and new[1].dtype == jnp.bfloat16
    equal(new[1][1], jnp.asarray(np.float64(half).mean(0), jnp.bfloat16))
    # What all workers have alike stays so to the bit.
    same = np.stack([rng.standard_normal(99).astype(np.float32)] * 7)
    equal(eo.resize_workers(local(same), 3).inner, same[:3])


# Nothing to do, and what cannot be done.


def test_nothing_changes_where_nothing_must():
    state = state_of(CHAINS["chain"], 4)
    assert eo.resize_workers(state, 4) is state
    plain = optax.adam(1e-3).init(PARAMS)
    assert eo.resize_workers(plain, 3) is plain
    assert eo.resize_workers((), 2) == ()
    # The states of several optimizers, beside the parameters and a step.
    bundle = {"step": 7, "params": PARAMS, "states": [state, plain]}
    new = eo.resize_workers(bundle, 2)
    assert new["step"] == 7 and new["params"] is not None
    equal(new["states"][0], eo.resize_workers(state, 2))
    equal((new["params"], new["states"][1]), (PARAMS, plain))


def test_all_arrays_of_jax_meet_on_one_device():
    # What did not change stayed on the 4 devices of its mesh, and the next step failed.
    tx = eo.over_workers(eo.ef_sign_sgd(0.1, axis_name="workers"), eo.worker_mesh(4))
    state = eo.resize_workers(tx.init(PARAMS), 2)
    assert {len(x.devices()) for x in jax.tree.leaves(state)} == {1}
    tx = eo.over_workers(eo.ef_sign_sgd(0.1, axis_name="workers"), eo.worker_mesh(2))
    grads = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
    jax.block_until_ready(tx.update(grads, state, PARAMS))


@pytest.mark.parametrize(
    ("state", "count", "error", "message"),
    [
        (local(np.ones((2, 3))), 0, ValueError, "count must be at least 1; got 0"),
        (local(np.ones((2, 3))), 2.0, TypeError, "as an integer"),
        (local({"a": np.ones((2, 3)), "b": np.ones(4)}), 3, ValueError,
         r"do not agree.*2,\): \.inner\['a'\]; \(4,\): \.inner\['b'\].*over_workers"),
        (local(np.float32(1)), 3, ValueError, r"\(\): \.inner\. .*worker axis"),
        (eo.TwoWayState([np.ones((2, 3))], (), np.array([7])), 3, ValueError,
         r"shape \(2, 3\) in 1 parts with a padding of 7 are not those of 2 workers"),
        (eo.TwoWayState([np.ones((2, 3, 1))], (), np.array([0])), 3, ValueError,
         r"shape \(2, 3, 1\)"),
    ],
)
def test_bad_states_and_counts_are_refused(state, count, error, message):
    with pytest.raises(error, match=message):
        eo.resize_workers(state, count)


def test_traced_states_and_half_a_mesh_are_refused():
    state = local(np.ones((2, 3)))
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(functools.partial(eo.resize_workers, count=3))(state)
    with pytest.raises(ValueError, match="give mesh and param_specs, or neither"):
        eo.resize_workers(state, 3, param_specs=P("model"))


def test_a_state_of_pmap_is_refused():
    tx = eo.ef_sign_sgd(0.1, axis_name="workers")
    params = {"w": jnp.ones((4, 3))}
    state = jax.vmap(tx.init, axis_name="workers")(params)
    with pytest.raises(ValueError, match=r"count is the same.*shape \(4,\).*jax.pmap"):
        eo.resize_workers(state, 2)

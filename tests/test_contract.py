"""What every transformation must do with one worker, as a citizen of optax.

Most checks run eagerly, where the operations of one case are compiled already by
another: it takes a hundredth of the time, and results are equal to the bit.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import optax
import pytest
from contract import every, schedule
from contract_tools import (
    PARAMS,
    SMALL,
    assert_close,
    assert_same,
    assert_types,
    compilations,
    gradients,
    is_key,
    quick_compilation,  # noqa: F401
    states,
    structs,
)
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax as eo
from ef_optax._keys import KeyState

pytestmark = pytest.mark.filterwarnings("ignore:No contraction is known")

GRADS = gradients(0)


def updater(tx, case):
    """Returns update with the extra arguments that the case needs."""
    return functools.partial(tx.update, **case.extra)


# What init and update may be called with.


@every()
def test_init_needs_only_shapes_and_shares_no_buffer(case):
    tx = case.make()
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    state = tx.init(PARAMS)
    assert_types(jax.eval_shape(tx.init, PARAMS), state)
    assert_types(tx.init(structs(PARAMS)), state)
    buffers = [
        x.unsafe_buffer_pointer() for x in jax.tree.leaves((state, PARAMS))
        if x.size and not is_key(x)
    ]
    assert len(set(buffers)) == len(buffers)


@every()
def test_update_takes_unknown_extra_args_and_needs_none(case):
    tx = case.make()
    state = tx.init(PARAMS)
    result = tx.update(GRADS, state, PARAMS, **case.extra)
    assert_types(result[0], GRADS)
    assert_same(tx.update(GRADS, state, PARAMS, unknown=1, **case.extra), result)
    if "without_params" not in case.skip:
        assert_same(tx.update(GRADS, state), result)


# Composition.


@every(compiles=True)
def test_it_stands_in_chains(case):
    tx = case.make()
    expected, after = tx.update(GRADS, tx.init(PARAMS), PARAMS, **case.extra)
    expected = optax.tree.scale(2.0, expected)
    for outer in (
        optax.chain(tx, optax.scale(2.0)),
        optax.named_chain(("it", tx), ("scale", optax.scale(2.0))),
    ):
        updates, kept = outer.update(GRADS, outer.init(PARAMS), PARAMS, **case.extra)
        assert_same(updates, expected)
        assert_same(kept["it"] if isinstance(kept, dict) else kept[0], after)


@every(compiles=True)
def test_masked_and_partition_show_it_its_part_only(case):
    tx = case.make()
    part = {name: GRADS[name] for name in SMALL}
    expected, _ = tx.update(part, tx.init(SMALL), SMALL, **case.extra)
    labels = {name: "it" if name in SMALL else "rest" for name in PARAMS}
    groups = {"it": tx, "rest": optax.scale(3.0), "nobody": tx}
    mask = {name: name in SMALL for name in PARAMS}
    for outer, factor in (
        (optax.masked(tx, mask), 1.0), (optax.partition(groups, labels), 3.0)
    ):
        start = outer.init(PARAMS)
        updates, state = outer.update(GRADS, start, PARAMS, **case.extra)
        assert_types(state, start)
        assert_same({name: updates.pop(name) for name in SMALL}, expected)
        rest = {name: GRADS[name] for name in updates}
        assert_same(updates, optax.tree.scale(factor, rest))


@every()
def test_hyperparameters_may_be_injected(case):
    axis = {"axis_name": None} if case.crosses else {}
    kwargs = dict(case.kwargs)
    if "learning_rate" in kwargs:
        kwargs["learning_rate"] = schedule
    direct = case.factory(**kwargs, **axis)
    injected = optax.inject_hyperparams(case.factory, static_args=case.static)(
        **kwargs, **axis)
    # One dtype at a time: injected numbers have the widest dtype of all leaves.
    for like in ({name: leaf} for name, leaf in SMALL.items()):
        expected, state = direct.init(like), injected.init(like)
        # Traced, so that nothing may depend on the value of a hyperparameter.
        jax.eval_shape(updater(injected, case), like, state, like)
        for seed in range(2):
            grads = gradients(seed, like)
            updates, state = injected.update(grads, state, like, **case.extra)
            wanted, expected = direct.update(grads, expected, like, **case.extra)
            assert_same(updates, wanted)


@every(compiles=True)
def test_accumulates_skips_is_donated_and_compiles_once(case):
    tx = case.make()
    outer = optax.MultiSteps(optax.apply_if_finite(tx, 9), 2)
    update = jax.jit(updater(outer, case), donate_argnums=(0, 1))
    state = outer.init(SMALL)
    nan = optax.tree.full_like(SMALL, jnp.nan)
    steps = [gradients(0, SMALL), gradients(1, SMALL), nan, gradients(0, SMALL)]
    mean = jax.tree.map(lambda x, y: (x + y) / 2, *steps[:2])
    expected, after = tx.update(mean, tx.init(SMALL), SMALL, **case.extra)
    seen = []
    with compilations() as programs:
        for grads in steps:
            donated = jax.tree.leaves((grads, state))
            updates, state = update(grads, state, SMALL)
            assert all(x.is_deleted() for x in donated)
            seen.append(updates)
    assert len(programs) == 1, programs
    zero = optax.tree.zeros_like(SMALL)
    assert_same([seen[0], seen[2], seen[3]], [zero] * 3)
    kept = state.inner_opt_state
    assert kept.total_notfinite == 1
    assert_close((seen[1], kept.inner_state), (expected, after))


# Types and placement.


@every()
def test_updates_keep_their_dtype_and_errors_theirs(case):
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            tree = structs(PARAMS, dtype=dtype)
            tx = case.make()
            state = jax.eval_shape(tx.init, tree)
            updates, after = jax.eval_shape(updater(tx, case), tree, state, tree)
        assert_types(updates, tree)
        assert_types(after, state)
        default = jnp.promote_types(dtype, jnp.float32)
        wanted = jnp.dtype(case.kwargs.get("accumulator_dtype", default))
        for kept in states(state, eo.ErrorFeedbackState):
            assert {x.dtype for x in jax.tree.leaves(kept.error)} == {wanted}


@every()
def test_its_state_keeps_its_types(case):
    # Scan would accept another weak type, and compile anew for it later.
    tx = case.make()
    state = tx.init(PARAMS)
    _, after = jax.eval_shape(updater(tx, case), GRADS, state, PARAMS)
    assert_types(after, state)


@every(compiles=True)
def test_its_state_goes_through_scan_and_cond_and_lowers_for_all_platforms(case):
    tx = case.make()
    update = updater(tx, case)

    def step(state, grads, params):
        updates, state = lax.cond(
            jnp.sum(grads["matrix"]) > 0,
            lambda state: update(grads, state, params),
            lambda state: (optax.tree.zeros_like(grads), state), state)
        return state, updates

    def run(grads, params):
        return lax.scan(
            lambda state, g: step(state, g, params), tx.init(params), grads)[1]

    platforms = ["cpu", "cuda", "tpu"]
    exported = jax.export.export(jax.jit(run), platforms=platforms)(
        structs(GRADS, lead=(2,)), structs(PARAMS))
    assert exported.platforms == tuple(platforms)


@every()
@pytest.mark.parametrize("spec", [P(), P("x")], ids=["replicated", "sharded"])
def test_its_state_keeps_its_place_on_an_explicit_mesh(case, spec):
    if spec:
        case.needs("sharded")
    mesh = jax.make_mesh((2,), ("x",), (AxisType.Explicit,))
    tx, seen = case.make(), []
    with jax.set_mesh(mesh):
        params = jax.device_put(SMALL, NamedSharding(mesh, spec))

        def update(grads, state, params):
            after = tx.update(grads, state, params, **case.extra)
            seen.extend(jax.tree.map(jax.typeof, x) for x in ((grads, state), after))
            return after

        jax.eval_shape(update, params, tx.init(params), params)
    assert seen[0] == seen[1]


def hidden(leaf):
    return isinstance(leaf, optax.MaskedNode)


@every()
def test_map_params_finds_errors_and_momenta(case):
    tx = case.make()
    state = tx.init(PARAMS)
    names = {name: None if x is None else name for name, x in PARAMS.items()}
    mapped = optax.tree.map_params(
        tx, lambda leaf, name: leaf if hidden(leaf) else name, state, names,
        transform_non_params=lambda leaf: "other", is_leaf=hidden)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    for kept in states(mapped, (eo.ErrorFeedbackState, optax.TraceState)):
        assert {n: names[n] if hidden(e) else e for n, e in kept[0].items()} == names
    for leaf, name in zip(
        jax.tree.leaves(state), jax.tree.leaves(mapped), strict=True
    ):
        # Of one worker the shard is the whole leaf, flat.
        assert name == "other" or leaf.size == PARAMS[name].size


# Bad input.

# What a state remembers of gradients or draws from; schedules go on counting.
KEEPERS = (
    eo.ErrorFeedbackState, eo.CompressState, KeyState, optax.TraceState, optax.EmaState)


@every()
def test_a_nonfinite_input_gives_nan_and_is_forgotten(case):
    case.needs("nonfinite")
    tx = case.make()
    state = tx.update(GRADS, tx.init(PARAMS), PARAMS, **case.extra)[1]
    for bad, name in itertools.product((jnp.nan, jnp.inf), ("scalar", "matrix")):
        place = (0,) * PARAMS[name].ndim
        grads = GRADS | {name: GRADS[name].at[place].set(bad)}
        updates, after = tx.update(grads, state, PARAMS, **case.extra)
        assert all(jnp.isnan(x).all() for x in jax.tree.leaves(updates))
        for kind in KEEPERS:
            for old, new in zip(states(state, kind), states(after, kind), strict=True):
                if kind is eo.ErrorFeedbackState:
                    new = new._replace(count=old.count)
                assert_same(new, old)

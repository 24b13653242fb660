"""Gradient accumulation: what it averages, when it crosses, what a NaN does."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import quick_compilation  # noqa: F401
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import ef_optax as eo
from ef_optax.workers import per_worker_leaves

AXIS = "workers"
COUNT = 4
PARAMS = {"w": jnp.zeros((2, 3)), "h": jnp.zeros(5, jnp.bfloat16)}
equal = chex.assert_trees_all_equal


def mesh_of(*names, shape=(COUNT,)):
    return jax.make_mesh(shape, names, (AxisType.Auto,) * len(names),
                         devices=jax.devices()[:int(np.prod(shape))])


def gradients(steps, lead=(COUNT,), seed=0):
    """Returns small integers [*lead, steps, ...]: they and their means are exact."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(
            rng.integers(-8, 9, (*lead, steps, *x.shape)) * 2.0**-3, x.dtype), PARAMS)


def train(tx, grads, scan=True):
    """Returns the updates of every step and the last state; loops if not `scan`."""
    if scan:
        state, updates = lax.scan(
            lambda s, g: tx.update(g, s, PARAMS)[::-1], tx.init(PARAMS), grads)
        return updates, state
    state, out = tx.init(PARAMS), []
    for t in range(len(grads["w"])):
        now = jax.tree.map(lambda x, t=t: x[t], grads)
        updates, state = tx.update(now, state, PARAMS)
        out.append(updates)
    return jax.tree.map(lambda *x: jnp.stack(x), *out), state


def over_workers(run, mode):
    """Maps run, of gradients [steps, ...], over workers; all results [workers, ...]."""
    if mode == "vmap":
        return jax.jit(jax.vmap(run, axis_name=AXIS))
    if mode == "pmap":
        return jax.pmap(run, AXIS, devices=jax.devices()[:COUNT])

    def one(grads):
        out = run(jax.tree.map(lambda x: x[0], grads))
        return jax.tree.map(lambda x: x[None], eo.Workers(AXIS).varying(out))

    return jax.jit(jax.shard_map(
        one, mesh=mesh_of(AXIS), in_specs=P(AXIS), out_specs=P(AXIS)))


MODES = ["vmap", "pmap", "shard_map"]
INNER = {
    "ef_sign_sgd": functools.partial(eo.ef_sign_sgd, 0.125, momentum=0.5),
    "signum": functools.partial(eo.signum, 0.5, zero="random", key=1),
}


@pytest.mark.parametrize(("mode", "name"), [
    ("vmap", "ef_sign_sgd"), ("shard_map", "signum"),
    *(pytest.param(mode, "ef_sign_sgd", marks=pytest.mark.slow) for mode in MODES[1:])])
def test_every_kth_step_is_the_transformations_on_the_mean(name, mode):
    every, rounds = 2, 2
    grads = gradients(every * rounds + 1)
    tx = INNER[name](axis_name=AXIS)
    updates, state = over_workers(
        functools.partial(train, eo.accumulate(tx, every, AXIS)), mode)(grads)
    mean = jax.tree.map(
        lambda x: x[:, :-1].reshape(COUNT, rounds, every, *x.shape[2:])
        .astype(jnp.float32).mean(2).astype(x.dtype), grads)
    expected, inner = over_workers(functools.partial(train, tx), mode)(mean)
    for t in range(every * rounds + 1):
        now = jax.tree.map(lambda x, t=t: x[:, t], updates)
        wanted = jax.tree.map(lambda x, t=t: x[:, t // every % rounds], expected)
        if t % every != every - 1:
            wanted = optax.tree.zeros_like(now)
        equal(now, wanted)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
    equal(state.inner, inner)
    assert (state.mini_step == 1).all() and (state.gradient_step == rounds).all()
    assert state.acc_grads["h"].dtype == jnp.float32
    equal(state.acc_grads, jax.tree.map(lambda x: x[:, -1].astype(jnp.float32), grads))
    for worker in range(1, COUNT):
        equal(*(jax.tree.map(lambda x, w=w: x[w], updates) for w in (0, worker)))


@pytest.mark.parametrize(
    ("every", "jit"), [
        pytest.param(4, True, marks=pytest.mark.slow),
        (lambda step: 2 ** (step % 3), True), (2, False)])
def test_with_one_worker_it_is_optaxs(every, jit):
    if jit:
        run = jax.jit(train, static_argnums=0)
    else:
        run = functools.partial(train, scan=False)
    # The momentum of bfloat16 gradients rounds, and so shows what it was given.
    tx = optax.chain(optax.trace(0.75), eo.ef_sign_sgd(optax.linear_schedule(1, 0, 9)))
    grads = gradients(9, ())
    updates, state = run(eo.accumulate(tx, every), grads)
    expected, theirs = jax.jit(train, static_argnums=0)(
        optax.MultiSteps(tx, every), grads)
    # Compiled, XLA keeps some bfloat16 results in float32 in between.
    near = functools.partial(
        chex.assert_trees_all_close, rtol=1e-6 if jit else 2**-6,
        atol=1e-6 if jit else 2**-8)
    near(updates, expected)
    near(state.inner, theirs.inner_opt_state)
    assert state.mini_step == theirs.mini_step
    assert state.gradient_step == theirs.gradient_step


def computations(text):
    """Returns the lines of each computation of a compiled program, by name."""
    bodies, current = {}, None
    for line in text.splitlines():
        start = re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            current = bodies.setdefault("ENTRY" if start[1] else start[2], [])
        elif current is not None:
            current.append(line)
    return bodies


def reached(bodies, name, into_branches):
    """Returns the lines that run with a computation, with branches or without."""
    lines = []
    for line in bodies[name]:
        lines.append(line)
        if " conditional(" in line and not into_branches:
            continue
        for called in set(re.findall(r"%([\w.\-]+)", line)) & bodies.keys():
            lines += reached(bodies, called, into_branches)
    return lines


COLLECTIVE = re.compile(r" (all-\w+|reduce-scatter|collective-\w+)(-start)?\(")


def compiled(tx, mode):
    """Returns the computations of one step over workers."""
    grads = jax.tree.map(lambda x: x[:, 0], gradients(1))
    if mode == "over_workers":
        tx = eo.over_workers(tx, eo.worker_mesh(COUNT))
        step, state = jax.jit(tx.update), tx.init(PARAMS)
    else:
        step = jax.pmap(tx.update, AXIS, devices=jax.devices()[:COUNT])
        state = jax.tree.map(lambda x: jnp.stack([x] * COUNT), tx.init(PARAMS))
    return computations(step.lower(grads, state).compile().as_text())


@pytest.mark.parametrize(("mode", "name", "around"), [
    ("over_workers", "ef_sign_sgd", "accumulate"), ("pmap", "signum", "accumulate"),
    ("pmap", "signum", "MultiSteps")])
def test_collectives_are_compiled_into_the_branch_of_the_last_step(mode, name, around):
    tx = INNER[name](axis_name=AXIS)
    tx = eo.accumulate(tx, 8, AXIS) if around == "accumulate" else (
        optax.MultiSteps(tx, 8))
    bodies = compiled(tx, mode)
    always = [x for x in reached(bodies, "ENTRY", False) if COLLECTIVE.search(x)]
    last = [x for x in reached(bodies, "ENTRY", True) if COLLECTIVE.search(x)]
    assert last
    assert bool(always) == (around == "MultiSteps")


@pytest.mark.parametrize("mode", [
    pytest.param("vmap", marks=pytest.mark.slow), "shard_map"])
def test_a_nan_spoils_one_update_and_the_next_starts_anew(mode):
    tx = eo.accumulate(INNER["ef_sign_sgd"](axis_name=AXIS), 2, AXIS)
    clean = gradients(6)
    dirty = clean | {"w": clean["w"].at[2, 2, 1, 1].set(jnp.nan)}

    def state_after(steps, grads):
        return train(tx, jax.tree.map(lambda x: x[:steps], grads))[1]

    run = over_workers(
        lambda g: (train(tx, g)[0], state_after(2, g), state_after(4, g)), mode)
    _, before, _ = run(clean)
    updates, same, after = run(dirty)
    equal(same, before)
    for leaf in jax.tree.leaves(updates):
        # The whole update of that step, on every worker, and no other.
        wrong = np.isnan(np.asarray(leaf, np.float32)).reshape(COUNT, 6, -1)
        assert (wrong == (np.arange(6) == 3)[:, None]).all()
    for part in ("error", "compressor"):
        equal(getattr(after.inner[-1], part), getattr(before.inner[-1], part))
    assert not any(jnp.any(x) for x in jax.tree.leaves(after.acc_grads))
    assert (after.mini_step == 0).all() and (after.gradient_step == 2).all()
    # The worker whose gradient it was keeps its momentum.
    momentum = [s.inner[0].inner.trace["w"][2] for s in (before, after)]
    equal(*momentum)


def test_sums_are_kept_in_float32():
    params = {"f": jnp.zeros(1, jnp.float16), "b": jnp.zeros(1, jnp.bfloat16)}
    tx = eo.accumulate(optax.identity(), 4)
    state = tx.init(params)
    for f, b in ((60000, 256), (60000, 1), (60000, 1), (60000, 2)):
        grads = {"f": jnp.full(1, f, jnp.float16), "b": jnp.full(1, b, jnp.bfloat16)}
        updates, state = tx.update(grads, state)
    # In float16 the sum is infinite, in bfloat16 256 + 1 is 256.
    equal(updates, {"f": jnp.full(1, 60000, jnp.float16),
                    "b": jnp.full(1, 65, jnp.bfloat16)})


def test_leaves_that_a_second_mesh_axis_splits_stay_so():
    tx = eo.accumulate(eo.compress(eo.identity(), axis_name=AXIS), 2, AXIS)

    def run(both, one):
        params = {"both": jnp.zeros_like(both[0, 0]), "one": jnp.zeros_like(one[0, 0])}
        grads = {"both": both[0], "one": one[0]}
        updates = lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(params), grads)
        return updates[1]["both"][1], updates[1]["one"][1]

    both, one = np.arange(24.0).reshape(2, 2, 6), np.arange(12.0).reshape(2, 2, 3)
    mapped = jax.jit(jax.shard_map(
        run, mesh=mesh_of(AXIS, "model", shape=(2, 2)),
        in_specs=(P(AXIS, None, "model"), P(AXIS)), out_specs=(P("model"), P())))
    equal(mapped(both, one), (both.mean((0, 1)), one.mean((0, 1))))


def test_what_is_accumulated_is_declared_as_the_workers_own():
    tx = eo.accumulate(eo.ef_sign_sgd(0.1, axis_name=AXIS), 2, AXIS)
    marks = per_worker_leaves(tx.init(PARAMS))
    assert marks.acc_grads == {"w": True, "h": True}
    assert not (marks.mini_step or marks.gradient_step)
    assert marks.inner[-1].error == {"w": True, "h": True}


# Bad input.


def test_gradients_that_are_already_summed_are_refused():
    tx = eo.accumulate(eo.majority_vote(AXIS), 2, AXIS)

    def step(x):
        grads = jax.grad(lambda p: jnp.sum(p["w"]) * x[0])({"w": jnp.ones(3)})
        return tx.update(grads, tx.init({"w": jnp.ones(3)}))[0]

    mapped = jax.shard_map(step, mesh=mesh_of(AXIS), in_specs=P(AXIS), out_specs=P())
    with pytest.raises(ValueError, match=r"^accumulate: .*already summed"):
        jax.eval_shape(mapped, jnp.arange(4.0))


def test_momentum_before_the_exchange_is_refused_as_it_is_without():
    # That branches differ in what they vary over is not what the user can mend.
    tx = eo.accumulate(
        optax.chain(optax.trace(0.5), eo.majority_vote(AXIS)), 2, AXIS)
    tx = eo.over_workers(tx, eo.worker_mesh(COUNT))
    grads = jax.tree.map(lambda x: x[:, 0], gradients(1))
    with pytest.raises(ValueError, match=r"state differ.*inner\[0\].*ef_optax\.local"):
        tx.update(grads, tx.init(PARAMS), PARAMS)


def test_an_axis_that_is_not_bound_is_named():
    tx = eo.accumulate(eo.majority_vote(AXIS), 2, AXIS)
    with pytest.raises(NameError, match="is not bound here"):
        tx.update(PARAMS, tx.init(PARAMS))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((eo.ef_sign_sgd, 2), AttributeError, "init"),
        ((optax.sgd(1.0), 0), ValueError, "every must be in .1, inf.; got 0"),
        ((optax.sgd(1.0), 2.5), ValueError, "every must be an integer; got 2.5"),
        ((optax.sgd(1.0), float("inf")), ValueError, "every must be"),
        ((optax.sgd(1.0), float("nan")), ValueError, "every must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        eo.accumulate(*arguments)


def test_other_trees_and_dtypes_are_refused():
    tx = eo.accumulate(optax.identity(), 2)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError):  # by jax.tree.map
        tx.update({"w": PARAMS["w"]}, state)
    with pytest.raises(ValueError, match=r"other shapes.*worker axis"):
        tx.update(jax.tree.map(lambda x: x[None], PARAMS), state)
    with pytest.raises(ValueError, match="real floating-point"):
        tx.update(jax.tree.map(lambda x: x.astype(int), PARAMS), state)

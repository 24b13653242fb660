"""skip_nonfinite: a step with a NaN anywhere is as if it had never been."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import compilations, quick_compilation  # noqa: F401
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import ef_optax as eo

AXIS = "workers"
COUNT = 4
PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
equal = chex.assert_trees_all_equal


def schedule(count):
    return 0.5 / (1.0 + count)


def exempt_vectors(axis_name):
    tx = eo.error_feedback(eo.scaled_sign(), axis_name=axis_name)
    return eo.exempt(
        tx, lambda tree: jax.tree.map(lambda x: x.ndim < 2, tree), axis_name)


OPTIMIZERS = {
    "error_feedback": lambda axis: eo.ef_sign_sgd(
        schedule, axis_name=axis, momentum=0.5),
    "vote": lambda axis: eo.sign_sgd(
        schedule, axis_name=axis, tie="random", key=2),
    "signum": lambda axis: eo.signum(0.5, axis_name=axis, warmup_steps=1),
    "exempt": exempt_vectors,
    "two_way": lambda axis: eo.ef_sign_sgd(
        0.5, axis_name=axis, exchange=eo.two_way(workers=COUNT)),
    "accumulate": lambda axis: eo.accumulate(
        eo.signum(0.5, axis_name=axis), 1, axis),
    "accept_if_lower": lambda axis: eo.accept_if_lower(
        eo.signum(0.5, axis_name=axis), axis),
}
EXTRA = {"accept_if_lower": {"value_fn": lambda params: jnp.sum(params["w"][0])}}


def gradients(steps, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal((COUNT, steps, *x.shape)), x.dtype),
        PARAMS)


def mesh_of(*names, shape=(COUNT,)):
    return jax.make_mesh(shape, names, (AxisType.Auto,) * len(names),
                         devices=jax.devices()[:int(np.prod(shape))])


class Run:
    """One compiled step, of gradients [workers, ...], and a first state."""

    def __init__(self, tx, mode, extra=None):
        if mode == "over_workers":
            mapped = eo.over_workers(tx, eo.worker_mesh(COUNT))
            self.state = mapped.init(PARAMS)
            step = functools.partial(mapped.update, params=PARAMS, **(extra or {}))
            self.step = jax.jit(step)
            return

        def step(grads, state):
            return tx.update(grads, state, PARAMS, **(extra or {}))

        self.state = jax.vmap(lambda _: tx.init(PARAMS), axis_name=AXIS)(
            jnp.arange(COUNT))
        self.step = (
            jax.jit(jax.vmap(step, axis_name=AXIS)) if mode == "vmap"
            else jax.pmap(step, AXIS, devices=jax.devices()[:COUNT]))

    def __call__(self, grads, order):
        """Takes steps with the gradients of this order; all updates and states."""
        state, seen = self.state, []
        for t in order:
            updates, state = self.step(at(t, grads), state)
            seen.append((updates, state))
        return seen


def at(step, tree):
    return jax.tree.map(lambda x: x[:, step], tree)


def bits(tree):
    return jax.tree.map(
        lambda x: jax.random.key_data(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)


def poison(grads, step, value=jnp.nan, worker=2):
    return grads | {"w": grads["w"].at[worker, step, 1, 1].set(value)}


@pytest.mark.parametrize(("name", "mode"), [
    *((name, "over_workers") for name in OPTIMIZERS),
    ("signum", "pmap"), ("two_way", "vmap")])
def test_a_nan_step_is_as_if_it_had_never_been(name, mode):
    run = Run(eo.skip_nonfinite(OPTIMIZERS[name](AXIS)), mode, EXTRA.get(name))
    # Steps 4 and 5 hold one bad number of one worker.
    grads = poison(poison(gradients(6), 4), 5, -jnp.inf, worker=0)
    clean, dirty = run(grads, (0, 1, 2, 3)), run(grads, (0, 1, 4, 5, 2, 3))
    for updates, state in dirty[2:4]:
        assert not any(jnp.any(x) for x in jax.tree.leaves(updates))
        assert all(x.dtype == PARAMS["w"].dtype for x in jax.tree.leaves(updates))
        if name == "accept_if_lower":  # which refuses such a step itself, and counts
            equal(state.inner.inner, dirty[1][1].inner.inner)
        else:
            equal(bits(state.inner), bits(dirty[1][1].inner))
    assert any(jnp.any(x) for x in jax.tree.leaves([u for u, _ in clean]))
    for (updates, state), (expected, after) in zip(
        dirty[:2] + dirty[4:], clean, strict=True
    ):
        equal(updates, expected)
        if name == "accept_if_lower":
            state, after = state.inner, after.inner
        equal(bits(state.inner), bits(after.inner))
    counts = [(s.consecutive.ravel()[0], s.total.ravel()[0]) for _, s in dirty]
    if name == "accept_if_lower":
        assert counts == [(0, 0)] * 6
    else:
        assert counts == [(0, 0), (0, 0), (1, 1), (2, 2), (0, 2), (0, 2)]


def test_steps_that_are_taken_are_those_of_the_optimizer():
    tx = OPTIMIZERS["error_feedback"](AXIS)
    grads = gradients(2)
    for (updates, state), (expected, after) in zip(
        Run(eo.skip_nonfinite(tx), "over_workers")(grads, (0, 1)),
        Run(tx, "over_workers")(grads, (0, 1)), strict=True,
    ):
        chex.assert_trees_all_close(
            (updates, state.inner), (expected, after), rtol=1e-6, atol=1e-7)


def test_without_it_the_momenta_of_other_workers_move():
    run = Run(OPTIMIZERS["signum"](AXIS), "vmap")
    [(_, (momentum, *_))] = run(poison(gradients(1), 0), (0,))
    moved = [bool(jnp.any(x)) for x in jax.tree.leaves(momentum)[-1]]
    assert moved == [True, True, False, True]


@pytest.mark.parametrize("inside", [False, True])
def test_an_accumulation_with_a_nan_is_dropped_whole(inside):
    signum = eo.signum(0.5, axis_name=AXIS)
    tx = (eo.accumulate(eo.skip_nonfinite(signum), 2, AXIS) if inside
          else eo.skip_nonfinite(eo.accumulate(signum, 2, AXIS)))
    run = Run(tx, "over_workers")
    # The first half of the second mean.
    grads = poison(gradients(5), 4)
    clean, dirty = run(grads, (0, 1, 2, 3)), run(grads, (0, 1, 4, 1, 2, 3))
    for (updates, _), (expected, _) in zip(
        dirty[:2] + dirty[4:], clean, strict=True
    ):
        equal(updates, expected)
    for updates, _ in dirty[2:4]:
        assert not any(jnp.any(x) for x in jax.tree.leaves(updates))
    for step, steps_of_tx in ((3, 1), (5, 2)):
        state = dirty[step][1]
        plain = clean[step - 2][1]
        skipping, accumulated = (
            (state.inner, state) if inside else (state, state.inner))
        equal(state.inner.inner, plain.inner.inner)  # momenta
        assert skipping.total == 1 and accumulated.mini_step == 0
        assert accumulated.gradient_step == steps_of_tx + inside
        assert not any(jnp.any(x) for x in jax.tree.leaves(accumulated.acc_grads))


def test_optaxs_own_accumulation_is_refused_inside():
    tx = eo.skip_nonfinite(optax.chain(optax.MultiSteps(
        optax.sgd(1.0), 2).gradient_transformation()))
    with pytest.raises(TypeError, match=r"NaN that MultiSteps.*ef_optax\.accumulate"):
        tx.init(PARAMS)
    eo.accumulate(eo.skip_nonfinite(optax.sgd(1.0)), 2).init(PARAMS)


def test_it_adds_no_collective():
    def collectives(tx):
        state = jax.tree.map(lambda x: jnp.stack([x] * COUNT), tx.init(PARAMS))
        step = jax.pmap(tx.update, AXIS, devices=jax.devices()[:COUNT])
        text = step.lower(at(0, gradients(1)), state).compile().as_text()
        return sum(text.count(f" {kind}(") for kind in ("all-reduce", "all-gather"))

    tx = eo.signum(0.5, axis_name=AXIS)
    assert collectives(tx) == collectives(eo.skip_nonfinite(tx, AXIS)) == 1


def test_one_step_under_over_workers_compiles_once_and_may_be_donated():
    tx = eo.over_workers(
        eo.skip_nonfinite(eo.signum(0.5, axis_name=AXIS), AXIS), eo.worker_mesh(COUNT))
    params = jax.tree.map(jnp.array, PARAMS)
    state = tx.init(params)
    step = jax.jit(tx.update, donate_argnums=(0, 1))
    grads = gradients(3)
    dirty = poison(grads, 1)
    # Placed as the step returns it.
    _, state = step(at(2, grads), state, params)
    kept = []
    with compilations() as programs:
        for t in (0, 1, 0):
            g = jax.tree.map(jnp.array, at(t, dirty))
            kept.append(jax.tree.map(np.array, state))
            updates, after = step(g, state, params)
            assert all(x.is_deleted() for x in jax.tree.leaves(state))
            state = after
            if t == 1:
                assert not any(jnp.any(x) for x in jax.tree.leaves(updates))
    assert not [p for p in programs if "update" in str(p)], programs
    equal(kept[2].inner, kept[1].inner)
    assert (kept[2].total, kept[1].total, int(state.consecutive)) == (1, 0, 0)


@pytest.mark.parametrize("where", [0, 1])
def test_parts_of_a_model_decide_together(where):
    """A NaN that only one half of the model sees, in an update that did cross."""
    spoil = optax.stateless(lambda u, _: jax.tree.map(
        lambda x: jnp.where(lax.axis_index("model") == where, jnp.nan, x), u))
    tx = eo.skip_nonfinite(
        optax.chain(eo.compress(eo.identity(), axis_name=AXIS), spoil), AXIS)

    def run(g):
        state = tx.init({"w": g[0]})
        updates, state = tx.update({"w": g[0]}, state)
        return updates["w"], state.total

    updates, total = jax.jit(jax.shard_map(
        run, mesh=mesh_of(AXIS, "model", shape=(2, 2)), in_specs=P(AXIS, "model"),
        out_specs=(P("model"), P())))(jnp.ones((2, 6)))
    assert total == 1 and not updates.any()


def test_an_update_that_did_not_cross_is_refused_where_types_tell():
    grads = poison(gradients(1), 0)
    tx = eo.skip_nonfinite(optax.sgd(0.5), AXIS)
    with pytest.raises(ValueError, match=r"varies over axis 'workers'"):
        Run(tx, "over_workers")(grads, (0,))
    # Elsewhere each worker decides alone, and the replicas drift apart, as they do
    # without it.
    [(updates, state)] = Run(tx, "vmap")(grads, (0,))
    equal(state.total, jnp.asarray([0, 0, 1, 0]))
    assert [bool(jnp.any(x)) for x in updates["w"]] == [True, True, False, True]


def test_one_leaf_that_is_not_finite_is_enough():
    tx = eo.skip_nonfinite(optax.sgd(0.5, momentum=0.5))
    state = tx.init(PARAMS)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = tx.update(grads, state)
    equal(updates, jax.tree.map(lambda x: jnp.full_like(x, -0.5), PARAMS))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        updates, after = tx.update(grads | {"b": grads["b"].at[3].set(bad)}, state)
        equal(updates, PARAMS)
        equal(after.inner, state.inner)

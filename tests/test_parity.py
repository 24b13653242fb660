"""pmap = shard_map = vmap = NumPy, and what every exchange conserves."""

import functools

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from contract import COMPRESSORS
from contract_tools import quick_compilation  # noqa: F401
from jax.sharding import PartitionSpec as P

import ef_optax as eo

AXIS = "workers"
PAIR = ("hosts", "devices")
STEPS = 3
# Sizes that are powers of two, so that means of dyadic values are exact.
SHAPES = {"w": (4, 4), "b": (8,), "s": ()}


def gradients(count, kind, names="wbs"):
    """Leaves [workers, steps, ...]; dyadic ones are k/16, with zeros and ties."""
    rng = np.random.default_rng(0)
    shapes = {n: (count, STEPS, *SHAPES[n]) for n in names}
    if kind == "dyadic":
        draw = lambda s: rng.integers(-16, 17, s).astype(np.float32) / 16  # noqa: E731
    else:
        draw = lambda s: rng.normal(size=s).astype(np.float32)  # noqa: E731
    return {n: draw(shape) for n, shape in shapes.items()}


# How transformations run: updates and states as [workers, steps, ...].


@functools.cache
def compiled(make, mode, count):
    """One function of gradients [workers, steps, ...] for all that `make` returns."""
    axis = PAIR if "pair" in mode else AXIS

    def run(grads):  # state made inside, steps under scan
        txs = make(axis)
        params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:]), grads)

        def step(states, g):
            out = {n: tx.update(g, states[n], params) for n, tx in txs.items()}
            states = {n: state for n, (_, state) in out.items()}
            return states, ({n: u for n, (u, _) in out.items()}, states)

        states = {n: tx.init(params) for n, tx in txs.items()}
        return jax.lax.scan(step, states, grads)[1]

    def run_pair(outer):
        inner = outer(jax.vmap(run, axis_name=PAIR[1]))
        both = lambda x: x.reshape(2, 2, *x.shape[1:])  # noqa: E731
        flat = lambda x: x.reshape(4, *x.shape[2:])  # noqa: E731
        return lambda g: jax.tree.map(flat, inner(jax.tree.map(both, g)))

    devices = jax.devices()[:count]
    if mode == "vmap":
        return jax.jit(jax.vmap(run, axis_name=AXIS))
    if mode == "pmap":
        return jax.pmap(run, axis_name=AXIS, devices=devices)
    if mode == "pair, vmap of vmap":
        return jax.jit(run_pair(lambda f: jax.vmap(f, axis_name=PAIR[0])))
    if mode == "pair, pmap of vmap":
        return run_pair(
            lambda f: jax.pmap(f, axis_name=PAIR[0], devices=devices[:2]))
    names, shape = (PAIR, (2, 2)) if axis is PAIR else ((AXIS,), (count,))
    mesh = jax.make_mesh(shape, names, devices=devices,
                         axis_types=(jax.sharding.AxisType.Auto,) * len(names))

    def own(grads):
        updates, states = run(jax.tree.map(lambda x: x[0], grads))
        states = eo.Workers(names).varying(states)
        return updates, jax.tree.map(lambda x: x[None], states)

    # Updates leave as P(): their types say that they are replicated.
    sharded = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=P(names),
                                    out_specs=(P(), P(names)), check_vma=True))

    def with_copies(grads):
        updates, states = sharded(grads)
        # A type is a promise; what each device holds is the fact.
        return jax.tree.map(
            lambda x: np.stack([s.data for s in x.addressable_shards]), updates
        ), states

    return with_copies


def run_all(make, mode, count, grads):
    updates, states = jax.tree.map(np.asarray, compiled(make, mode, count)(grads))
    for copies in jax.tree.leaves(updates):
        assert len({copy.tobytes() for copy in copies}) == 1  # bit for bit
    return jax.tree.map(lambda x: x[0], updates), states


# The methods in NumPy, in float64, from [steps, workers, d] to (mean, error) a step.


def ternary(p):
    return np.abs(p).mean(1, keepdims=True) * np.sign(p)


def one_bit(p):
    return np.abs(p).mean(1, keepdims=True) * np.where(p >= 0, 1, -1)


def largest_three(p):
    order = np.argsort(-np.abs(p), axis=1, kind="stable")[:, :3]
    out = np.zeros_like(p)
    np.put_along_axis(out, order, np.take_along_axis(p, order, 1), 1)
    return out


def bfloat16(p):
    return p.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def feedback(compress, rate, decay=1.0):
    def steps(grads):
        error = 0.0
        for g in grads:
            p = rate * g + decay * error
            own = compress(p)
            error = p - own
            yield own.mean(0), error

    return steps


def plain(compress):
    return lambda grads: ((compress(g).mean(0), None) for g in grads)


def vote(votes, outcome):
    return lambda grads: ((outcome(votes(g).sum(0)), None) for g in grads)


VOTES = {
    "vote": (eo.majority_vote, vote(np.sign, np.sign)),
    "vote, positive": (
        lambda a: eo.majority_vote(a, zero="positive", tie="positive"),
        vote(lambda g: np.where(g >= 0, 1, -1), lambda s: np.where(s >= 0, 1, -1))),
    "vote_sum": (eo.vote_sum, vote(np.sign, lambda total: total)),
}
METHODS = VOTES | {
    "mean": (
        lambda a: eo.compress(eo.identity(), axis_name=a), plain(lambda g: g)),
    "mean, gathered": (
        lambda a: eo.compress(eo.identity(), axis_name=a, exchange=eo.gather()),
        plain(lambda g: g)),
    "scaled signs": (
        lambda a: eo.compress(eo.scaled_sign(), axis_name=a), plain(one_bit)),
    "ef_sign_sgd": (
        lambda a: eo.ef_sign_sgd(0.5, axis_name=a), feedback(one_bit, -0.5)),
    "ef, ternary": (
        lambda a: eo.error_feedback(
            eo.scaled_sign(zero="zero"), axis_name=a, decay=0.5),
        feedback(ternary, 1.0, 0.5)),
    "ef, top-k": (
        lambda a: eo.ef_sgd(0.5, eo.top_k(k=3), axis_name=a),
        feedback(largest_three, -0.5)),
    "ef, identity": (
        lambda a: eo.ef_sgd(0.5, eo.identity(), axis_name=a),
        feedback(lambda p: p, -0.5)),
    "ef, cast": (
        lambda a: eo.ef_sgd(0.5, eo.cast(jnp.bfloat16), axis_name=a),
        feedback(bfloat16, -0.5)),
}


def with_oracles(axis):
    return {name: make(axis) for name, (make, _) in METHODS.items()}


def has_error(state):
    return isinstance(state, eo.ErrorFeedbackState)


def error_of(state):
    parts = jax.tree.leaves(state, is_leaf=has_error)
    return next((s.error for s in parts if has_error(s)), None)


def assert_near(actual, expected, scale, ulps):
    """Equal within so many ulp of `scale`, the leaf's largest magnitude."""
    within = ulps * np.spacing(np.float32(scale))
    np.testing.assert_allclose(actual, expected.astype(actual.dtype), 0, within)


def check_numpy(updates, states, grads, kind):
    count = grads["w"].shape[0]
    exact = 0 if kind == "dyadic" else 4
    # XLA multiplies by 1/3 instead of dividing by 3: such means are not exact.
    exact_mean = exact if count & (count - 1) == 0 else 4
    for name, (_, oracle) in METHODS.items():
        error = error_of(states[name])
        for leaf, g in grads.items():
            rows = np.moveaxis(g, 1, 0).astype(np.float64).reshape(STEPS, count, -1)
            shape, scale = g.shape[2:], np.abs(g).max()
            for t, (mean, rest) in enumerate(oracle(rows)):
                assert_near(updates[name][leaf][t], mean.reshape(shape), scale,
                            0 if name in VOTES else exact_mean)
                assert (rest is None) == (error is None)
                if rest is not None:
                    rest = rest.reshape(count, *shape)
                    assert_near(error[leaf][:, t], rest, scale, exact)


@pytest.mark.parametrize("count", [
    1, 4, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 3, 8))])
def test_pmap_shard_map_vmap_and_numpy_agree(count):
    for kind in ("dyadic", "normal"):
        grads = gradients(count, kind)
        results = [run_all(with_oracles, mode, count, grads)
                   for mode in ("vmap", "pmap", "shard_map")]
        for updates, states in results:
            check_numpy(updates, states, grads, kind)
        if kind == "dyadic":
            chex.assert_trees_all_equal(*results)


def test_300_workers_agree_with_numpy():
    for kind in ("dyadic", "normal"):
        grads = gradients(300, kind)
        check_numpy(*run_all(with_oracles, "vmap", 300, grads), grads, kind)


def without_oracles(axis):
    """Random, low-rank, fused and exempt: those that keep or send more."""
    key = jax.random.PRNGKey(0)
    vectors = functools.partial(jax.tree.map, lambda x: jnp.ndim(x) < 2)
    ef = functools.partial(eo.error_feedback, axis_name=axis)
    return {
        "random_k": ef(eo.random_k(k=3, key=key)),
        "stochastic": ef(eo.stochastic_sign(key)),
        "low rank": ef(eo.k_pca(1), learning_rate=0.5),
        "whole tree": eo.compress(eo.scaled_sign("tree"), axis_name=axis),
        "exempt": eo.exempt(ef(eo.top_k(k=2)), vectors, axis),
        "vote": eo.majority_vote(axis),
    }


@pytest.mark.slow
def test_a_pair_of_axes_equals_one_axis():
    grads = gradients(4, "normal", "wb")
    one = run_all(without_oracles, "vmap", 4, grads)
    # All workers drew the same coordinates.
    assert (np.count_nonzero(one[0]["random_k"]["b"], axis=1) == 3).all()
    for mode in ("pmap", "shard_map", "pair, vmap of vmap", "pair, pmap of vmap",
                 "pair, shard_map"):
        other = run_all(without_oracles, mode, 4, grads)
        jax.tree.map(lambda a, b: assert_near(b, a, 4.0, 8), one, other)


@pytest.mark.parametrize(
    ("compressor", "x"),
    [(eo.sign("random", key=0), 0.0), (eo.stochastic_sign(0), 1.0)], ids=repr)
def test_workers_draw_signs_of_their_own(compressor, x):
    tx = eo.compress(compressor, axis_name=AXIS)
    run = jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name=AXIS)
    mean = jax.jit(run)(jnp.full((4, 4096), x))[0]
    # Means of four independent signs, not of one.
    sizes, counts = np.unique(np.abs(mean / jnp.abs(mean).max()), return_counts=True)
    np.testing.assert_allclose(sizes, [0, 0.5, 1])
    np.testing.assert_allclose(counts / 4096, [3 / 8, 1 / 2, 1 / 8], atol=0.04)


def uncounted(states, step):
    """States after a step, but for its number, which schedules need."""
    return jax.tree.map(
        lambda s: s._replace(count=0) if has_error(s) else s,
        jax.tree.map(lambda x: x[:, step], states), is_leaf=has_error)


@pytest.mark.parametrize("mode", ["vmap", "shard_map"])
def test_a_non_finite_step_is_nan_everywhere_and_then_as_if_it_had_not_been(mode):
    grads = gradients(4, "normal", "wb")
    without = jax.tree.map(lambda g: g[:, [0, 2, 2]], grads)
    expected, expected_states = run_all(without_oracles, mode, 4, without)
    for leaf, worker, value in (("w", 0, np.nan), ("b", 3, -np.inf)):
        bad = jax.tree.map(np.copy, grads)
        bad[leaf][worker, 1, 2] = value
        updates, states = run_all(without_oracles, mode, 4, bad)
        for u, e in zip(jax.tree.leaves(updates), jax.tree.leaves(expected),
                        strict=True):
            assert np.isnan(u[1]).all()
            np.testing.assert_array_equal(u[2], e[1])
        chex.assert_trees_all_equal(uncounted(states, 1), uncounted(states, 0))
        chex.assert_trees_all_equal(
            uncounted(states, 2), uncounted(expected_states, 1))


@pytest.mark.filterwarnings("ignore:No contraction is known")
def test_what_came_in_is_applied_or_kept_by_all_workers_together():
    leaves = {"w": ((3, 5), jnp.float32), "v": ((7,), jnp.bfloat16),
              "h": ((2, 3, 2), jnp.float16)}
    params = {n: jnp.zeros(*leaf) for n, leaf in leaves.items()}
    decay = 0.75

    @functools.partial(jax.vmap, axis_name=AXIS)
    def run(grads):
        txs = {name: eo.error_feedback(c.make(), axis_name=AXIS, decay=decay)
               for name, c in COMPRESSORS.items()}

        def step(states, g):
            out = {name: tx.update(g, states[name]) for name, tx in txs.items()}
            return {name: state for name, (_, state) in out.items()}, {
                name: (u, states[name].error, state.error)
                for name, (u, state) in out.items()}

        states = {name: tx.init(params) for name, tx in txs.items()}
        return jax.lax.scan(step, states, grads)[1]

    rng = np.random.default_rng(0)
    grads = {n: jnp.asarray(rng.normal(size=(4, STEPS, *shape)), dtype)
             .at[..., 0].set(0) for n, (shape, dtype) in leaves.items()}
    for compressor, results in jax.jit(run)(grads).items():
        for n, (_, dtype) in leaves.items():
            assert results[2][n].dtype == jnp.float32
            g, applied, old, new = (
                np.asarray(x[n], np.float64) for x in (grads, *results))
            expected = (g + decay * old - new).mean(0)
            scale = np.float32(max(np.abs(x).max() for x in (g, applied, old, new)))
            within = 8 * np.spacing(scale)
            if dtype != jnp.float32:
                # One rounding more, of the float32 result to 16 bits.
                info = ml_dtypes.finfo(dtype)
                within = within + float(info.smallest_subnormal)
                within = within + float(info.eps) / 2 * np.abs(expected)
            assert (np.abs(applied - expected) <= within).all(), (compressor, n)

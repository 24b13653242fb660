"""Two lossy steps, both with memory: against NumPy, in every mode, to the byte."""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from contract_tools import quick_compilation  # noqa: F401
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from mapping import AXIS, PAIR, mapped

import ef_optax as eo

STEPS = 6
SHAPES = {"cube": (2, 3, 5), "empty": (0, 3), "scalar": ()}
# For what compiles a program of its own.
FEW = {"scalar": (), "vector": (7,)}
equal = chex.assert_trees_all_equal


def ef(compressor, server=None, axis=AXIS, **kwargs):
    return eo.error_feedback(
        compressor, axis_name=axis, exchange=eo.two_way(server), **kwargs)


def normal(workers, steps=STEPS, shapes=SHAPES, seed=0):
    """Gradients [workers, steps, ...]."""
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal((workers, steps, *s)).astype(np.float32)
            for n, s in shapes.items()}


def dyadic(workers, steps=2, shapes=SHAPES, seed=0):
    """Gradients of so few bits that no sum or mean of theirs is rounded."""
    rng = np.random.default_rng(seed)
    return {n: rng.integers(-8, 9, (workers, steps, *s)).astype(np.float32) / 4
            for n, s in shapes.items()}


def steps_of(tx):
    """Every step's (updates, worker's error, server's error), and the last state."""
    def run(grads):
        def step(state, g):
            updates, state = tx.update(g, state)
            node = next((s for s in state if hasattr(s, "error")), state) if type(
                state) is tuple else state
            return state, (updates, node.error, node.exchange.error)

        state = tx.init(jax.tree.map(lambda x: x[0], grads))
        state, trace = jax.lax.scan(step, state, grads)
        return trace, state

    return run


def run(tx, grads, mode="vmap"):
    workers = len(jax.tree.leaves(grads)[0])
    return jax.device_get(mapped(lambda axis: steps_of(tx), mode, workers)(grads))


def assert_replicas(updates):
    for x in jax.tree.leaves(updates):
        assert len({copy.tobytes() for copy in np.asarray(x)}) == 1


# the algorithm


def top(k):
    return lambda row: oracles.top(row, min(k, row.size))


def same(row):
    return row


# name: (library's compressor and server, NumPy's, of one row)
METHODS = {
    "scaled_sign": ((eo.scaled_sign(), None), (oracles.mean_sign_of_bits, None)),
    "scaled_sign with zeros": ((eo.scaled_sign(zero="zero"), None),
                               (oracles.mean_sign, None)),
    "top_k": ((eo.top_k(k=2), None), (top(2), None)),
    "signs of k": ((eo.top_k(k=3), eo.scaled_sign()),
                   (top(3), oracles.mean_sign_of_bits)),
    "exact, top_k answer": ((eo.identity(), eo.top_k(k=1)), (same, top(1))),
}
ORACLES = [
    *((name, 3, 1.0) for name in ("scaled_sign", "top_k", "signs of k")),
    ("scaled_sign", 8, 0.75),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("scaled_sign with zeros", 3, 1.0), ("exact, top_k answer", 2, 1.0),
        ("top_k", 5, 0.5), ("signs of k", 4, 0.5)))]


@pytest.mark.parametrize(("name", "workers", "decay"), ORACLES)
def test_every_step_is_numpys_with_both_errors(name, workers, decay):
    ours, theirs = METHODS[name]
    grads = normal(workers)
    (updates, errors, shards), state = run(ef(*ours, decay=decay), grads)
    assert_replicas(updates)
    oracle = oracles.EfTwoWay(*theirs, decay=decay)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for t in range(STEPS):
        x = oracle({n: np.zeros(s) for n, s in SHAPES.items()},
                   [{n: np.float64(g[i, t]) for n, g in grads.items()}
                    for i in range(workers)], 1.0)
        for n in SHAPES:
            close(updates[n][0, t], -x[n], err_msg=f"{n} at {t}")
            close(shards[n][:, t], oracle.s[n], err_msg=f"server's {n} at {t}")
            for i in range(workers):
                close(errors[n][i, t], oracle.e[i][n], err_msg=f"{n} of {i} at {t}")
    for i, n in enumerate(SHAPES):
        size = int(np.prod(SHAPES[n]))
        assert (state.exchange.padding[:, i] == -size % workers).all()
        assert shards[n].shape == (workers, STEPS, -(-size // workers))


def test_with_identity_it_is_the_plain_mean_of_updates():
    grads = dyadic(4, 3, FEW)
    (updates, errors, shards), _ = run(ef(eo.identity()), grads)
    equal(updates, jax.tree.map(
        lambda g: np.broadcast_to(g.mean(0), g.shape).astype(g.dtype), grads))
    assert not any(np.any(x) for x in jax.tree.leaves((errors, shards)))


def test_16_bit_gradients_have_float32_errors_on_both_sides():
    grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.bfloat16), normal(3, 3, FEW))
    (updates, *errors), _ = run(ef(eo.scaled_sign()), grads)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(errors)} == {np.dtype("f4")}
    # What the cast of the result takes away nobody keeps, in float32 nothing is lost.
    wide = jax.tree.map(lambda g: np.asarray(g, np.float32), grads)
    owed = {n: mean_owed(errors[0][n], errors[1][n], s) for n, s in FEW.items()}
    for n, g in wide.items():
        due = np.float64(g).mean(0) - np.diff(owed[n], axis=0, prepend=0)
        np.testing.assert_allclose(np.float64(updates[n][0]), due, rtol=2.0**-8,
                                   atol=1e-6)


def test_compress_keeps_nothing_on_either_side():
    tx = eo.compress(eo.scaled_sign(), axis_name=AXIS,
                     exchange=eo.two_way(eo.top_k(k=2)))
    grads = jax.tree.map(lambda g: np.repeat(g, 2, 1), normal(3, 1, FEW))
    (updates, state) = jax.jit(jax.vmap(lambda g: jax.lax.scan(
        lambda s, g: tx.update(g, s)[::-1], tx.init(jax.tree.map(lambda x: x[0], g)),
        g)[::-1], axis_name=AXIS))(grads)
    assert state.exchange.error is None
    equal(*(jax.tree.map(lambda x, t=t: np.asarray(x[:, t]), updates) for t in (0, 1)))
    oracle = oracles.EfTwoWay(oracles.mean_sign_of_bits, top(2), memory=False)
    x = oracle({n: np.zeros(s) for n, s in FEW.items()},
               [{n: np.float64(g[i, 0]) for n, g in grads.items()} for i in range(3)],
               1.0)
    chex.assert_trees_all_close(
        jax.tree.map(lambda u: np.float64(u[0, 0]), updates),
        jax.tree.map(np.negative, x), rtol=1e-5, atol=1e-6)


# what came in is applied or kept


def mean_owed(errors, shards, shape):
    """What workers owe on average, plus what the servers owe: [steps, ...]."""
    size, steps = int(np.prod(shape)), shards.shape[1]
    server = np.float64(shards).swapaxes(0, 1).reshape(steps, -1)[:, :size]
    return np.float64(errors).mean(0) + server.reshape(steps, *shape)


def assert_conserved(grads, trace, decay):
    """At every step: mean input + decay * owed before = applied + owed after."""
    updates, errors, shards = trace
    for n, g in grads.items():
        owed = mean_owed(errors[n], shards[n], g.shape[2:])
        before = np.concatenate([np.zeros_like(owed[:1]), owed[:-1]])
        left = np.float64(g).mean(0) + decay * before
        # Rounding is that of the largest numbers in a row, which make its scale; what
        # is below the smallest normal number counts as 0.
        largest = max(np.max(np.abs(x), initial=0) for x in (
            np.float64(g), errors[n], shards[n], updates[n]))
        np.testing.assert_allclose(
            np.float64(updates[n][0]) + owed, left, rtol=0,
            atol=40 * (2.0**-24 * largest + 2.0**-126), err_msg=n)


@functools.cache
def with_decay(method):
    """All steps for gradients and for a decay that is traced."""
    def step(g, decay):
        return steps_of(ef(*METHODS[method][0], decay=decay))(g)[0]

    return jax.jit(jax.vmap(step, in_axes=(0, None), axis_name=AXIS))


@pytest.mark.parametrize("method", ["scaled_sign", "signs of k"])
def test_over_the_workers_what_came_in_is_applied_or_kept(method):
    grads = normal(3, 2, FEW)
    grads["vector"] **= 9
    for decay in (0.75, 0.0, 1.0):
        trace = jax.device_get(with_decay(method)(grads, decay))
        assert_conserved(grads, trace, decay)
    # Without decay the sum of all inputs is what was applied and what is owed.
    owed = mean_owed(trace[1]["vector"], trace[2]["vector"], (7,))[-1]
    came, applied = (np.float64(x["vector"]).mean(0).sum(0) for x in (grads, trace[0]))
    np.testing.assert_allclose(came, applied + owed, rtol=1e-6,
                               atol=1e-5 * np.abs(grads["vector"]).max())
    assert np.any(owed)


LARGE = float(np.float32(1e30))
NUMBERS = st.one_of(
    st.just(0.0), st.floats(-1, 1, width=32), st.floats(-LARGE, LARGE, width=32),
    st.builds(lambda m, e: m * 10.0**e, st.floats(-1, 1), st.integers(-38, 30)))


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(st.lists(NUMBERS, min_size=1, max_size=3 * 2 * 8),
                  st.sampled_from([1.0, 0.5]))
def test_whatever_comes_in_is_applied_or_kept(numbers, decay):
    # Zeros after them, so that short lists are sparse gradients.
    flat = np.zeros(3 * 2 * 8, np.float32)
    flat[:len(numbers)] = numbers
    flat = flat.reshape(3, 2, 8)
    grads = {"scalar": flat[..., 0], "vector": flat[..., 1:]}
    for method in ("scaled_sign", "signs of k"):
        trace = jax.device_get(with_decay(method)(grads, decay))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(trace))
        assert_replicas(trace[0])
        assert_conserved(grads, trace, decay)


def test_a_mean_that_overflows_destroys_no_error():
    # Finite on every worker, not their sum.
    grads = normal(2, 4, {"w": (3,)})
    grads["w"][:, 1] = [3e38, 0, 3e38]
    trace, _ = run(ef(eo.identity(), eo.top_k(k=1)), grads)
    updates, *errors = (x["w"] for x in trace)
    assert_replicas(updates)
    assert all(np.isfinite(e).all() for e in errors)
    assert np.isfinite(updates[:, 2:]).all()
    if not np.isfinite(updates[:, 1]).all():  # then nothing of it was applied
        assert np.isnan(updates[:, 1]).all()
        for e in errors:
            np.testing.assert_array_equal(e[:, 1], e[:, 0])


# rates


RATES = np.float32([0.5, 0.25, 1, 2, 0.125, 0.5])
PAUSES = np.float32([0.5, 0, 0.25, 0, 0, 1])


def with_rates(after, server=None):
    """All steps for gradients and a table of rates, applied after it or before."""
    def step(g, rates):
        def rate(count):
            return rates[count]

        scale = optax.scale_by_schedule(rate)
        tx = optax.chain(
            ef(eo.scaled_sign(), server, learning_rate=rate), scale
        ) if after else optax.chain(scale, ef(eo.scaled_sign(), server))
        return steps_of(tx)(g)[0]

    go = jax.jit(jax.vmap(step, in_axes=(0, None), axis_name=AXIS))
    return lambda *args: jax.device_get(go(*args))


def test_with_the_rate_after_it_both_errors_are_in_units_of_the_parameters():
    # Powers of two multiply without rounding: the same bits in both conventions.
    grads, server = normal(3, 6, FEW), eo.top_k(k=1)
    before, after = (with_rates(side, server)(grads, RATES) for side in (False, True))
    assert np.any(after[2]["vector"])
    equal(after, before)


def test_a_step_at_rate_0_applies_nothing_and_keeps_both_errors():
    grads, go = normal(3, 6, FEW), with_rates(True)
    trace = go(grads, PAUSES)
    updates, *errors = trace
    moving, pauses = np.flatnonzero(PAUSES), np.flatnonzero(PAUSES == 0)
    for t in pauses:
        assert not any(np.any(u[:, t]) for u in jax.tree.leaves(updates))
        for e in jax.tree.leaves(errors):
            np.testing.assert_array_equal(e[:, t], e[:, t - 1])
    assert all(np.any(e["vector"][:, 1]) for e in errors)
    # As if there had been no pauses, here after all other steps.
    order = [*moving, *pauses]
    without = go(jax.tree.map(lambda g: g[:, order], grads), PAUSES[order])
    equal(jax.tree.map(lambda x: x[:, moving], trace),
          jax.tree.map(lambda x: x[:, :len(moving)], without))


# what is not finite


def test_one_bad_number_is_nan_for_all_and_leaves_every_state_as_it_was():
    # Noise on both sides: keys and counts must not move either.
    tx = ef(eo.stochastic_sign(key=1), eo.scaled_sign(zero="random", key=2))
    good = normal(3, 3, FEW)
    go = mapped(lambda axis: steps_of(tx), "vmap", 3)
    without, expected = go(jax.tree.map(lambda g: g[:, [0, 2, 2]], good))
    assert int(expected.compressor.count[0]) == int(
        expected.exchange.compressor.count[0]) == 3
    for value, worker in ((np.nan, 0), (np.inf, 1), (-np.inf, 2)):
        bad = jax.tree.map(np.copy, good)
        bad["scalar"][worker, 1] = value
        trace, state = go(bad)
        updates, *errors = jax.device_get(trace)
        assert all(np.isnan(u[:, 1]).all() for u in jax.tree.leaves(updates))
        for e in jax.tree.leaves(errors):
            np.testing.assert_array_equal(e[:, 1], e[:, 0])
        # The step after it draws what the bad one would have drawn.
        equal(jax.tree.map(lambda x: x[:, [0, 2]], jax.device_get(trace)),
              jax.tree.map(lambda x: x[:, :2], jax.device_get(without)))
        np.testing.assert_array_equal(state.compressor.count, 2)
        np.testing.assert_array_equal(state.exchange.compressor.count, 2)
        equal(*(jax.random.key_data(s.exchange.compressor.key)
                for s in (state, expected)))
        np.testing.assert_array_equal(state.count, 3)  # of the schedule


def test_rows_and_servers_draw_noise_of_their_own():
    # Of one key: rows of a worker, workers, and what a server adds on top.
    tx = eo.compress(eo.stochastic_sign(key=0), axis_name=AXIS,
                     exchange=eo.two_way(eo.identity()))
    step = jax.jit(jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name=AXIS))
    rows = step(jnp.ones((2, 2 * 4096)))[0].reshape(2, 4096) / 64
    # A mean of two signs; were the two workers' alike, it would never be 0.
    assert abs(float(jnp.mean(rows == 0)) - 0.5) < 5 / 64
    assert abs(float(jnp.mean(rows[0] * rows[1]))) < 5 / 64


@pytest.mark.parametrize("compressor", [
    eo.stochastic_sign(), eo.random_k(k=1, scaled=True)], ids=repr)
def test_two_unbiased_steps_are_unbiased(compressor):
    # Many trees of one row: each leaf draws anew. The server takes the same key.
    draws, d = 400, 4
    tx = eo.compress(compressor, axis_name=AXIS, exchange=eo.two_way())

    def run(g):
        def step(state, _):
            return tx.update(g, state)[::-1]

        return jax.lax.scan(step, tx.init(g), None, length=draws)[1]

    x = jnp.array([1.0, 1.0, -1.0, 1.0])
    found = np.asarray(jax.jit(jax.vmap(run, axis_name=AXIS))(x[None]))[0]
    mean, deviation = (found * x).mean(), (found * x).std() / np.sqrt(draws * d)
    assert abs(mean - 1) < 5 * deviation + 1e-3


# modes


@pytest.mark.parametrize(("workers", "modes"), [
    (1, ["pmap"]), (4, ["pmap"]), (8, ["shard_map"]),
    *(pytest.param(n, ["shard_map"], marks=pytest.mark.slow) for n in (2, 4))])
def test_every_mode_has_the_same_bits_where_nothing_is_rounded(workers, modes):
    # A row of a power of two, so that no mean of magnitudes is rounded.
    grads = dyadic(workers, 2, {"w": (8, 4)})
    expected, state = run(ef(eo.scaled_sign()), grads)
    assert_replicas(expected[0])
    assert np.any(expected[2]["w"]) or workers == 1
    for mode in modes:
        equal(run(ef(eo.scaled_sign()), grads, mode), (expected, state))


def test_modes_agree_for_odd_sizes_to_a_few_ulp():
    grads = normal(3, 3, FEW)
    tx = ef(eo.top_k(k=2), eo.scaled_sign())
    expected, _ = run(tx, grads)
    found, _ = run(tx, grads, "shard_map")
    assert_replicas(found[0])
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_workers_of_two_axes_are_those_of_one():
    grads = dyadic(4, 2, {"w": (8, 4)})
    expected, _ = run(ef(eo.scaled_sign()), grads)
    for mode in ("pair, vmap", "pair, shard_map"):
        equal(run(ef(eo.scaled_sign(), axis=PAIR), grads, mode)[0], expected)


def test_many_workers():
    # More than there are numbers: most rows are padding.
    grads = normal(300, 2, {"long": (700,), "short": (5,)})
    trace, state = run(ef(eo.scaled_sign()), grads)
    assert_replicas(trace[0])
    assert_conserved(grads, trace, 1.0)
    np.testing.assert_array_equal(state.exchange.padding[0], [200, 295])


# states


def test_init_needs_the_axis_or_the_number_of_workers():
    params = {n: jnp.zeros(s) for n, s in SHAPES.items()}
    with pytest.raises(ValueError, match=r"(?s)'workers' is bound.*two_way\(workers="):
        ef(eo.scaled_sign()).init(params)
    known = eo.error_feedback(eo.scaled_sign(), axis_name=AXIS,
                              exchange=eo.two_way(workers=4))
    state = known.init(params)
    inside = jax.jit(jax.vmap(lambda _: known.init(params), axis_name=AXIS))(
        jnp.arange(4))
    equal(state, jax.tree.map(lambda x: x[0], inside))
    assert state.exchange.error["cube"].shape == (8,)
    # Where the axis is bound, its size counts.
    state = jax.vmap(lambda _: known.init(params), axis_name=AXIS)(jnp.arange(2))
    assert state.exchange.error["cube"].shape == (2, 15)
    # One worker needs neither; compress needs neither once it is bound.
    eo.error_feedback(eo.scaled_sign(), exchange=eo.two_way()).init(params)


@pytest.mark.parametrize("mode", ["vmap", "shard_map"])
def test_a_state_of_other_workers_is_refused_with_the_remedy(mode):
    known = eo.error_feedback(eo.scaled_sign(), axis_name=AXIS,
                              exchange=eo.two_way(workers=4))
    state = known.init({n: jnp.zeros(s) for n, s in SHAPES.items()})
    tx = ef(eo.scaled_sign())

    def make(axis):
        return lambda g: tx.update(g, state)[0]

    with pytest.raises(ValueError, match="resize_workers") as caught:
        jax.eval_shape(mapped(make, mode, 2), jax.tree.map(
            lambda g: g[:, 0], normal(2)))
    assert "than the 2 here" in str(caught.value)
    assert "['cube']: (8,) for (15,)" in str(caught.value)


@pytest.mark.parametrize("around", [eo.error_feedback, eo.compress])
def test_what_cannot_be_cut_into_rows_is_refused(around):
    for compressor, server in ((eo.k_pca(1), None), (eo.scaled_sign(), eo.k_pca(1))):
        with pytest.raises(ValueError, match="cannot encode shards") as caught:
            around(compressor, axis_name=AXIS, exchange=eo.two_way(server)).init(
                jnp.ones(3))
        assert "k_pca(rank=1)" in str(caught.value)
        assert "exchange=gather()" in str(caught.value)


@pytest.mark.parametrize(("given", "error", "message"), [
    ({"workers": 0}, ValueError, "workers"),
    ({"workers": 2.0}, TypeError, "integer"),
])
def test_what_means_nothing_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        eo.two_way(**given)


def test_a_server_that_is_not_known_to_contract_warns_where_it_keeps_an_error():
    with pytest.warns(UserWarning, match="the server's error may grow"):
        jax.vmap(ef(eo.scaled_sign(), eo.sign()).init, axis_name=AXIS)(jnp.ones((2, 3)))


def test_a_compressor_that_is_not_known_to_contract_warns_once_and_not_at_each_trace():
    with pytest.warns(UserWarning, match="No contraction") as caught:
        tx = ef(eo.sign())
        jax.eval_shape(jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name=AXIS),
                       jnp.ones((2, 3)))
    assert len(caught) == 1


# what crosses


def row_of(shape, workers):
    return -(-int(np.prod(shape)) // workers)


def sign_bytes(row):
    return -(-row // 8) + 4


BYTES = {  # of a row, there and back
    "scaled_sign": (ef(eo.scaled_sign()), sign_bytes, sign_bytes),
    "top_k": (ef(eo.top_k(k=2)), lambda d: min(4 * d, 2 * (4 + 1)) if d > 2 else 4 * d,
              lambda d: 2 * (4 + 1) if d > 2 else 4 * d),
    "mixed": (ef(eo.identity(), eo.scaled_sign()), lambda d: 4 * d, sign_bytes),
    "compress": (eo.compress(eo.cast(jnp.bfloat16), axis_name=AXIS,
                             exchange=eo.two_way()), lambda d: 2 * d, lambda d: 2 * d),
    }
LEAVES = [(64,), (3, 5), ()]


@pytest.mark.parametrize(("name", "workers", "shapes"), [
    *((name, 4, LEAVES) for name in BYTES), ("scaled_sign", 2, LEAVES[:1]),
    ("scaled_sign", 8, LEAVES[:1]), ("scaled_sign", 4, LEAVES * 3)])
def test_two_collectives_however_many_leaves_of_just_these_bytes(name, workers, shapes):
    tx, there, back = BYTES[name]

    def update(g):
        state = tx.init(g)
        return tx.update(g, state)[0]

    mesh = jax.make_mesh((workers,), (AXIS,), devices=jax.devices()[:workers],
                         axis_types=(AxisType.Auto,))
    step = jax.jit(jax.shard_map(
        lambda g: update([x[0] for x in g]), mesh=mesh, in_specs=P(AXIS),
        out_specs=P(), check_vma=True))
    report = eo.wire_report(
        step, [jax.ShapeDtypeStruct((workers, *s), jnp.float32) for s in shapes])
    rows = [row_of(s, workers) for s in shapes]
    message, answer = (sum(map(size, rows)) for size in (there, back))
    flag = 1
    assert sorted((c.kind, c.dtype, c.size, c.workers, c.times)
                  for c in report.collectives) == [
        ("all-gather", "u8", answer + flag, workers, 1),
        ("all-to-all", "u8", workers * (message + flag), workers, 1),
    ]
    assert report.bytes_sent == (workers - 1) * (message + answer + 2 * flag)
    if there is back:
        whole = workers * (message + flag)
        assert report.bytes_sent == 2 * (workers - 1) / workers * whole

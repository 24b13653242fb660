"""Error feedback: what it keeps, in which units, in which precision, and for whom."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from contract_tools import quick_compilation  # noqa: F401

import ef_optax as eo
from ef_optax import Compressor, Template

STEPS = 12
SHAPES = {"m": (4, 6), "s": (), "v": (13,)}
RNG = np.random.default_rng(0)
PARAMS = {n: jnp.float32(RNG.standard_normal(s)) for n, s in SHAPES.items()}
GRADS = {n: RNG.standard_normal((STEPS, *s)).astype(np.float32) ** 3
         for n, s in SHAPES.items()}
SMOOTH = np.float32([0.1, 0.09, 0.3, 0.25, 0.2, 0.01, 0.5, 0.05, 0.05, 0.1, 0.15, 0.2])
DYADIC = np.float32([0.5, 0.25, 1, 2, 0.125, 0.5, 0.5, 0.25, 4, 1, 0.5, 0.0625])
PAUSES = np.float32([0, 0.1, 0, 0, 0.3, 0.02, 0, 0.2, 0.2, 0, 0.5, 0])

COMPRESSORS = {
    "scaled sign": eo.scaled_sign(),
    "scaled sign, tree": eo.scaled_sign("tree", "positive"),
    "scaled sign, blocks": eo.scaled_sign(5),
    "top-k": eo.top_k(k=3),
    "top-k, tree": eo.top_k(fraction=0.2, per="tree"),
    "random-k": eo.random_k(k=3, key=1),
    "random-k, scaled": eo.random_k(k=3, key=1, scaled=True),
    "stochastic sign": eo.stochastic_sign(1),
    "k-PCA": eo.k_pca(2),
    "identity": eo.identity(),
}


def rate_of(table):
    return lambda count: jnp.asarray(table)[count]


def in_update_units(compressor, rates, **kwargs):
    return optax.chain(
        optax.scale_by_schedule(rate_of(rates)),
        eo.error_feedback(compressor, **kwargs))


def in_gradient_units(compressor, rates, **kwargs):
    return optax.chain(
        eo.error_feedback(compressor, learning_rate=rate_of(rates), **kwargs),
        optax.scale_by_schedule(rate_of(rates)))


def trace(txs, grads=GRADS, params=PARAMS):
    """Returns (updates, errors) of every step for each of several transformations."""

    def one(tx):
        def step(state, g):
            u, state = tx.update(g, state)
            parts = state if type(state) is tuple else (state,)
            return state, (u, next(s.error for s in parts if hasattr(s, "error")))

        return jax.lax.scan(step, tx.init(params), grads)[1]

    return {n: one(tx) for n, tx in txs.items()}


def run(*args):
    return jax.device_get(jax.jit(lambda: trace(*args))())


@pytest.fixture(scope="module")
def dyadic():
    """Both conventions with rates that multiply without rounding."""
    return [run({n: units(c, DYADIC) for n, c in COMPRESSORS.items()})
            for units in (in_update_units, in_gradient_units)]


def test_both_conventions_agree_bit_for_bit_at_powers_of_two(dyadic):
    ours, theirs = dyadic
    for name in set(COMPRESSORS) - {"k-PCA"}:  # a decomposition rounds as it likes
        chex.assert_trees_all_equal(ours[name], theirs[name])


def test_both_conventions_agree_for_homogeneous_compressors_and_any_rates_and_decay():
    names = ["scaled sign", "top-k", "random-k", "k-PCA"]

    @jax.jit
    @jax.vmap
    def both(decay):
        return [trace({n: units(COMPRESSORS[n], SMOOTH, decay=decay) for n in names})
                for units in (in_update_units, in_gradient_units)]

    ours, theirs = both(jnp.array([1.0, 0.5, 0.0]))
    chex.assert_trees_all_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("compressor", "gradient", "after", "before"),
    [
        # It clips what is applied, or the gradient.
        (optax.clip(0.1), 1.0, 0.1, 0.05),
        (eo.sign(), 3.0, 1.0, 0.5),
        # Half of 1e5 fits into float16, 1e5 does not.
        (eo.cast("float16"), 1e5, 5e4, 0.5 * 65504),
    ],
    ids=["clip", "sign", "saturated cast"],
)
@pytest.mark.filterwarnings("ignore:No contraction is known")
def test_the_conventions_part_where_the_compressor_is_not_homogeneous(
    compressor, gradient, after, before
):
    g = jnp.array([gradient])
    for units, wanted in ((in_update_units, after), (in_gradient_units, before)):
        tx = units(compressor, np.float32([0.5]))
        np.testing.assert_allclose(tx.update(g, tx.init(g))[0], [wanted], rtol=2e-3)


def test_in_gradient_units_a_rate_of_zero_applies_nothing_and_keeps_the_error():
    names = ["scaled sign", "top-k"]
    got = run({n: in_gradient_units(COMPRESSORS[n], PAUSES) for n in names})
    operators = [oracles.mean_sign, lambda x: oracles.top(x, 3)]
    for name, operator in zip(names, operators, strict=True):
        updates, errors = got[name]
        oracle = oracles.EfSgdGradientUnits(oracles.each(operator))
        x = {n: p.astype(np.float64) for n, p in jax.device_get(PARAMS).items()}
        before = jax.tree.map(np.zeros_like, jax.tree.map(lambda e: e[0], errors))
        for t, rate in enumerate(PAUSES):
            new = oracle(x, [{n: g[t] for n, g in GRADS.items()}], float(rate))
            at = jax.tree.map(lambda a, t=t: a[t], (updates, errors))
            if rate == 0:
                assert not any(np.any(u) for u in at[0].values())
                chex.assert_trees_all_equal(at[1], before)
            for n in x:
                np.testing.assert_allclose(at[0][n], x[n] - new[n], rtol=0, atol=2e-6)
                if oracle.e is not None:  # kept in units of the parameters
                    np.testing.assert_allclose(
                        at[1][n], oracle.last * oracle.e[n], rtol=0, atol=2e-6)
            x, before = new, at[1]


def test_in_update_units_a_rate_of_zero_sends_what_is_owed():
    updates, errors = run({"": in_update_units(eo.top_k(k=3), PAUSES)})[""]
    for t in np.flatnonzero(PAUSES == 0)[1:]:
        for n in SHAPES:
            owed = errors[n][t - 1]
            np.testing.assert_allclose(updates[n][t], oracles.top(owed, 3), atol=1e-6)
            np.testing.assert_allclose(errors[n][t], owed - updates[n][t], atol=1e-6)


def test_without_memory_error_feedback_is_compression():
    names = ["scaled sign", "top-k", "random-k, scaled", "stochastic sign"]
    got = run({n: eo.error_feedback(COMPRESSORS[n], decay=0.0) for n in names})
    for name in names:
        # The same draws: a state is that of the compressor, step by step.
        tx = eo.compress(COMPRESSORS[name].contractive)
        plain = jax.lax.scan(lambda s, g, tx=tx: tx.update(g, s)[::-1],
                             tx.init(PARAMS), GRADS)[1]
        chex.assert_trees_all_close(got[name][0], plain, rtol=1e-6)


def previous(errors):
    return np.concatenate([np.zeros_like(errors[:1]), errors[:-1]]).astype(np.float64)


def assert_conserves(updates, errors, came_in, decay, name):
    for n, g in came_in.items():
        owed = g + np.float64(np.float32(decay)) * previous(errors[n])
        left = updates[n].astype(np.float64) + errors[n]
        room = 3e-7 * np.maximum(np.abs(updates[n]), np.abs(owed)).max()
        np.testing.assert_allclose(left, owed, rtol=0, atol=room, err_msg=name)


def test_what_came_in_is_applied_or_kept_at_every_step(dyadic):
    scaled = {n: np.moveaxis(np.moveaxis(g, 0, -1) * DYADIC, -1, 0)
              for n, g in GRADS.items()}
    for name, (updates, errors) in dyadic[0].items():
        assert_conserves(updates, errors, scaled, 1.0, name)
    txs = {n: eo.error_feedback(c, decay=0.7) for n, c in COMPRESSORS.items()}
    txs["clip"] = eo.error_feedback(optax.clip(0.1), decay=0.7)
    for name, (updates, errors) in run(txs).items():
        assert_conserves(updates, errors, GRADS, 0.7, name)


def test_parameters_plus_error_follow_the_uncompressed_updates(dyadic):
    # x_t + error_t = x_0 + the sum of all updates, in optax's signs.
    for name, (updates, errors) in dyadic[0].items():
        for n, g in GRADS.items():
            rates = DYADIC.astype(np.float64).reshape(-1, *[1] * (g.ndim - 1))
            wanted = np.cumsum(rates * g, axis=0)
            got = np.cumsum(updates[n], axis=0, dtype=np.float64) + errors[n]
            room = 1e-6 * max(np.abs(errors[n]).max(), np.abs(wanted).max())
            np.testing.assert_allclose(got, wanted, rtol=0, atol=room, err_msg=name)


@pytest.mark.parametrize("dtype", [
    "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_16_bit_parameters_have_float32_errors_and_lose_nothing_before_the_cast(dtype):
    names = ["scaled sign", "top-k", "random-k", "stochastic sign"]
    low = jax.tree.map(lambda x: jnp.asarray(x, dtype), (PARAMS, GRADS))
    got = run({n: eo.error_feedback(COMPRESSORS[n]) for n in names}, low[1], low[0])
    for updates, errors in got.values():
        for n in SHAPES:
            assert updates[n].dtype == dtype and errors[n].dtype == np.float32
            # What the message decoded to: applied is this, cast to 16 bits.
            sent = np.asarray(low[1][n], np.float64) + previous(errors[n]) - errors[n]
            np.testing.assert_allclose(
                updates[n].astype(np.float64), sent, atol=1e-5,
                rtol=float(jnp.finfo(dtype).eps))


def test_accumulator_dtype_is_that_of_the_error():
    for dtype in (jnp.bfloat16, "float16", np.float32):
        tx = eo.error_feedback(eo.top_k(k=3), accumulator_dtype=dtype)
        updates, state = tx.update(PARAMS, tx.init(PARAMS))
        assert {e.dtype for e in state.error.values()} == {jnp.dtype(dtype)}
        assert {u.dtype for u in updates.values()} == {jnp.dtype("float32")}


def test_unbiased_compressors_are_damped_as_remark_5_says():
    scaled, plain, stochastic = (
        COMPRESSORS[n] for n in ("random-k, scaled", "random-k", "stochastic sign"))
    got = run({n: eo.error_feedback(c) for n, c in
               (("scaled", scaled), ("plain", plain), ("stochastic", stochastic))})
    chex.assert_trees_all_equal(got["scaled"], got["plain"])
    # C/d leaf by leaf: all magnitudes of a leaf are those of its norm over its size.
    updates, errors = got["stochastic"]
    for n, g in GRADS.items():
        norms = np.sqrt(((previous(errors[n]) + g) ** 2).reshape(STEPS, -1).sum(1))
        wanted = np.broadcast_to((norms / g[0].size).reshape(-1, *[1] * (g.ndim - 1)),
                                 g.shape)
        np.testing.assert_allclose(np.abs(updates[n]), wanted, rtol=2e-6)


def test_a_compressor_of_ones_own_with_a_variance_is_damped():
    doubled = Compressor(
        "doubled",
        encode=lambda x, state, workers: (x, Template.of(x), state),
        decode=lambda x, template: jax.tree.map(lambda a: 2 * a, x),
        variance=lambda params: 7.0)
    tx = eo.error_feedback(doubled)
    updates, state = tx.update(PARAMS, tx.init(PARAMS))
    chex.assert_trees_all_close(updates, jax.tree.map(lambda x: x / 4, PARAMS))
    chex.assert_trees_all_close(state.error, jax.tree.map(lambda x: 3 * x / 4, PARAMS))
    assert doubled.contractive.contraction(PARAMS) == 1 / 8


def test_only_what_is_not_known_to_contract_warns():
    unknown = Compressor("mystery", encode=lambda *a: a, decode=lambda *a: a[0])
    for compressor in (eo.sign(), eo.sign("positive"), unknown):
        with pytest.warns(UserWarning, match="No contraction is known for (sign|myst)"):
            eo.error_feedback(compressor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for compressor in [*COMPRESSORS.values(), eo.cast("bfloat16"), optax.clip(0.1)]:
            eo.error_feedback(compressor)
        eo.compress(eo.sign())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "inner",
    [eo.scaled_sign(), eo.top_k(k=3), eo.random_k(k=3), optax.clip(0.1),
     optax.chain(optax.trace(0.9), optax.clip(0.1))],
    ids=["scaled sign", "top-k", "random-k", "clip", "momentum and clip"])
def test_a_step_that_is_not_finite_is_nan_and_leaves_no_trace(inner, bad):
    tx = eo.error_feedback(inner)
    good = [{n: g[t] for n, g in GRADS.items()} for t in range(3)]
    spoiled = {**good[1], "v": np.where(np.arange(13) == 5, bad, good[1]["v"])}
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    _, state = update(good[0], state)
    updates, after = update(spoiled, state)
    for u in updates.values():
        assert np.isnan(u).all()
    for field in ("error", "compressor", "exchange"):
        chex.assert_trees_all_equal(getattr(after, field), getattr(state, field))
    assert after.count == state.count + 1  # as the schedule of the rate counts
    chex.assert_trees_all_equal(update(good[2], after)[0], update(good[2], state)[0])


def test_an_error_that_could_overflow_is_kept():
    tx, g = eo.error_feedback(optax.clip(1.0)), jnp.full(3, 1.5e37)
    update, state = jax.jit(tx.update), tx.init(g)
    for _ in range(2):
        updates, state = update(g, state)
    assert np.isfinite(updates).all()
    updates, after = update(g, state)
    assert np.isnan(updates).all()
    chex.assert_trees_all_equal(after.error, state.error)

"""Density, contraction, span and the weighted norms against float64 oracles."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ef_optax import measures

KEY = jax.random.key(7)
# Below 1e-30 the oracle's own compressor underflows, not the measure.
finite = st.floats(-1e3, 1e3, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0)
vectors = hnp.arrays(np.float32, st.sampled_from([1, 2, 17]), elements=finite)
few = settings(max_examples=25, deadline=None)


def oracle_density(v):
    v = np.abs(np.asarray(v, np.float64)).ravel()
    return v.sum() ** 2 / (v.size * (v**2).sum()) if v.any() else 0.0


def scaled_sign():
    """K's operator with sign(0) = 0, written here so that only measures is tested."""

    def one(x):
        return jnp.sum(jnp.abs(x)) / x.size * jnp.sign(x)

    return optax.stateless(lambda updates, _: jax.tree.map(one, updates))


# density


@few
@given(vectors)
def test_density_agrees_with_float64_and_stays_in_its_interval(v):
    phi = float(measures.density(jnp.asarray(v)))
    np.testing.assert_allclose(phi, oracle_density(v), rtol=1e-5)
    assert phi == 0 if not v.any() else np.float32(1 / v.size) <= phi <= 1


def test_density_at_its_ends_and_of_gaussian_entries():
    assert measures.density(jnp.full(1000, -0.3)) == 1
    assert measures.density(jnp.zeros(8).at[3].set(-2.0)) == 1 / 8
    v = jax.random.normal(KEY, (300_000,))
    assert abs(float(measures.density(v)) - 2 / math.pi) < 3e-3


def test_density_is_that_of_the_whole_tree():
    a, b = jax.random.normal(KEY, (3, 4)), jnp.arange(5.0)
    whole = oracle_density(np.concatenate([a.ravel(), b]))
    tree = {"a": a, "b": [None, b, jnp.zeros((0, 3)), optax.MaskedNode()]}
    np.testing.assert_allclose(measures.density(tree), whole, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(measures.density)(tree), whole, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e18, 1e30])
def test_density_does_not_depend_on_scale(scale):
    v = jnp.array([1.0, 2.0, -3.0], jnp.float32) * scale
    np.testing.assert_allclose(measures.density(v), 36 / 42, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_density_of_16_bit_leaves_sums_in_float32(dtype):
    v = jax.random.normal(KEY, (70_000,)).astype(dtype)  # its l1 norm passes float16
    phi = measures.density(v)
    assert phi.dtype == jnp.float32
    np.testing.assert_allclose(phi, oracle_density(v.astype(jnp.float32)), rtol=1e-4)


def test_density_without_a_vector():
    assert measures.density(jnp.zeros(4)) == 0
    assert measures.density({}) == 0
    assert measures.density([None, jnp.zeros((2, 0))]) == 0
    for bad in (jnp.nan, jnp.inf):
        assert jnp.isnan(measures.density(jnp.array([1.0, bad])))


@pytest.mark.parametrize(
    "leaf",
    [jnp.arange(3), jnp.ones(2, complex), jnp.array([True]), jax.random.key(0), 3],
    ids=["int", "complex", "bool", "key", "python int"],
)
def test_leaves_that_are_not_real_are_refused(leaf):
    calls = {
        "density": lambda t: measures.density(t),
        "contraction": lambda t: measures.contraction(optax.identity(), t),
        "span_distance": lambda t: measures.span_distance(t, [t]),
        "rho_norm": lambda t: measures.rho_norm(t, 0.5),
        "rho_m_norm": lambda t: measures.rho_m_norm(t, 0.5, 3),
        "l12_norm": lambda t: measures.l12_norm(t, 1.0),
        "welford_init": measures.welford_init,
        "success_probabilities": lambda t: measures.success_probabilities(t, t),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"{name} .*\['w'\].*optax.masked"):
            call({"w": leaf})


# contraction


@few
@given(vectors)
def test_lemma_8_contraction_of_scaled_sign(v):
    """1 − φ(2 − nnz/d) when sign(0) = 0, hence 1 − φ exactly without zeros."""
    x = jnp.asarray(v)
    measured = float(measures.contraction(scaled_sign(), x))
    phi = oracle_density(v)
    share = np.count_nonzero(v) / v.size
    expected = 1 - phi * (2 - share) if v.any() else 0
    np.testing.assert_allclose(measured, expected, atol=2e-5)
    assert measured <= 1 - phi + 2e-5


def test_lemma_8_layer_by_layer():
    tree = [jax.random.normal(KEY, (3, 5)), 10 * jax.random.normal(KEY, (7,))]
    leaves = [np.asarray(leaf, np.float64) for leaf in tree]
    kept = sum(np.abs(v).sum() ** 2 / v.size for v in leaves)
    expected = 1 - kept / sum((v**2).sum() for v in leaves)
    measured = measures.contraction(scaled_sign(), tree)
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_contraction_keeps_its_range(scale):
    x = jnp.array([3.0, 4.0]) * scale
    for factor in (0.5, 3.0):  # the second does not contract
        measured = measures.contraction(optax.scale(factor), x)
        np.testing.assert_allclose(measured, (1 - factor) ** 2, rtol=1e-6)
    assert measures.contraction(optax.identity(), x) == 0
    np.testing.assert_allclose(measures.contraction(optax.set_to_zero(), x), 1)


def test_contraction_uses_the_state_it_is_given():
    tx = optax.trace(0.5)
    x = jnp.array([1.0, -2.0])
    _, state = tx.update(x, tx.init(x))
    assert measures.contraction(tx, x) == 0
    for call in (measures.contraction, jax.jit(measures.contraction, static_argnums=0)):
        np.testing.assert_allclose(call(tx, x, state), 0.25, rtol=1e-6)


def test_contraction_of_zero_and_of_nonsense():
    assert measures.contraction(scaled_sign(), jnp.zeros(3)) == 0
    assert measures.contraction(optax.set_to_zero(), {}) == 0
    for change in (lambda x: x[:1], lambda x: x[0], lambda x: jnp.stack([x, x])):
        other = optax.stateless(lambda updates, _, change=change: change(updates))
        with pytest.raises(TypeError, match="reshape"):
            measures.contraction(other, jnp.ones(2))


# span

jitted_span = jax.jit(measures.span_distance)


def test_span_distance_agrees_with_least_squares():
    rng = np.random.default_rng(0)
    for count, dimension in ((1, 4), (20, 21), (9, 4)):
        rows = rng.normal(size=(count, dimension))
        x = rng.normal(size=dimension)
        a = np.linalg.lstsq(rows.T, x, rcond=None)[0]
        expected = np.linalg.norm(x - rows.T @ a)
        got = measures.span_distance(jnp.asarray(x), jnp.asarray(rows))
        np.testing.assert_allclose(got, expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([0, 5]), st.booleans()
)
def test_span_of_dependent_vectors_of_any_length(seed, rank, extra, inside):
    """Known subspace: x = part inside + known part orthogonal to it."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(30, rank + 1)))[0].T
    rows = rng.normal(size=(rank + extra, rank)) @ basis[:rank]
    rows[:rank] = basis[:rank]
    rows *= 10.0 ** rng.integers(-12, 12, size=(len(rows), 1))
    rows = np.concatenate([rows, np.zeros((10 - len(rows), 30))])
    away = 0.0 if inside else 3.0
    x = rng.normal(size=rank) @ basis[:rank] + away * basis[rank]
    got = jitted_span(jnp.asarray(x), jnp.asarray(rows))
    np.testing.assert_allclose(got, away, atol=2e-5)


def test_span_distance_forms_agree_and_trace():
    tree = {"a": jax.random.normal(KEY, (2, 3)), "b": (jnp.ones(4), None)}
    each = [
        jax.tree.map(lambda x, i=i: jax.random.normal(jax.random.key(i), x.shape), tree)
        for i in range(3)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *each)
    want = measures.span_distance(tree, each)
    assert 0 < want < optax.tree.norm(tree)
    np.testing.assert_allclose(measures.span_distance(tree, tuple(each)), want)
    np.testing.assert_allclose(measures.span_distance(tree, stacked), want)
    np.testing.assert_allclose(
        jax.jit(measures.span_distance)(tree, stacked), want, rtol=1e-6
    )


def test_span_of_nothing_and_large_entries():
    x = jnp.array([3.0, 4.0])
    assert measures.span_distance(x, []) == 5
    assert measures.span_distance(x, jnp.zeros((0, 2))) == 5
    assert measures.span_distance(x, [jnp.zeros(2)]) == 5
    assert measures.span_distance({}, [{}]) == 0
    far = measures.span_distance(x * 1e30, [jnp.array([1e-30, 0.0])])
    np.testing.assert_allclose(far, 4e30, rtol=1e-6)
    assert jnp.isnan(measures.span_distance(x, [jnp.array([jnp.nan, 0.0])]))
    assert jnp.isnan(measures.span_distance(x * jnp.nan, [x]))


@pytest.mark.parametrize(
    "vectors",
    [1.0, jnp.ones(3), jnp.ones((2, 4)), [jnp.ones(2)], [jnp.ones(3), jnp.ones(1)],
     [jnp.ones(())], [{"w": jnp.ones(3)}], jnp.ones((2, 1)), jnp.ones((2, 3, 1))],
)
def test_span_of_other_shapes_fails_and_is_not_broadcast(vectors):
    with pytest.raises((TypeError, ValueError)):
        measures.span_distance(jnp.ones(3), vectors)


def test_span_of_unequally_many_vectors_in_each_leaf_fails():
    tree = {"a": jnp.ones(3), "b": jnp.ones(2)}
    with pytest.raises(TypeError, match="concatenat"):
        measures.span_distance(tree, {"a": jnp.ones((4, 3)), "b": jnp.ones((1, 2))})


def test_theorem_iv_error_feedback_stays_near_the_span():
    """From x₀ = 0, ‖x − Π_G x‖ ≤ ‖e‖, at every step."""
    rng = np.random.default_rng(3)
    x, e, seen = np.zeros(40), np.zeros(40), []
    for _ in range(12):
        g = rng.normal(size=40)
        seen.append(g)
        p = 0.1 * g + e
        step = np.abs(p).mean() * np.sign(p)
        x, e = x - step, p - step
        rows = jnp.zeros((12, 40)).at[: len(seen)].set(np.stack(seen))
        bound = np.linalg.norm(e) + 1e-6
        distance = float(jitted_span(jnp.asarray(x), rows))
        assert distance <= bound
        virtual = jitted_span(jnp.asarray(x - e), rows)
        np.testing.assert_allclose(virtual, 0, atol=1e-5)


# norms


def vote_mean(rho, workers):
    """E[sign of the sum of votes] with ties 0, from the binomial law."""
    right = np.arange(workers + 1)
    chance = scipy.stats.binom.pmf(right, workers, rho)
    return float(np.sum(chance * np.sign(2 * right - workers)))


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 8, 15, 16, 63, 64, 501])
def test_rho_m_weight_is_the_exact_vote_sum(workers):
    """Lemma 8 of Safaryan and Richtárik, odd and even M."""
    for rho in (0.0, 0.2, 0.5, 0.51, 0.6, 0.75, 0.97, 1.0):
        got = float(measures.rho_m_norm(jnp.array([-1.0]), rho, workers))
        np.testing.assert_allclose(got, vote_mean(rho, workers), atol=1e-4)


@pytest.mark.parametrize("half", [1, 2, 7, 100])
def test_rho_m_norm_of_2l_minus_1_and_2l_workers_is_the_same(half):
    rho = jnp.linspace(0, 1, 31)
    g = jax.random.normal(KEY, (31,))
    odd = measures.rho_m_norm(g, rho, 2 * half - 1)
    assert odd == measures.rho_m_norm(g, rho, 2 * half)
    if half == 1:
        np.testing.assert_allclose(odd, measures.rho_norm(g, rho), atol=1e-5)


def test_rho_m_norm_agrees_with_its_definition_for_many_workers():
    rho = np.linspace(0.3, 0.9, 50, dtype=np.float32)
    g = np.linspace(-2, 3, 50, dtype=np.float32)
    for workers in (9, 200, 2001):
        half = (workers + 1) // 2
        weight = 2 * scipy.special.betainc(half, half, rho.astype(np.float64)) - 1
        expected = float(weight @ np.abs(g).astype(np.float64))
        got = measures.rho_m_norm(jnp.asarray(g), jnp.asarray(rho), workers)
        np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_hoeffding_grid():
    """1 − exp(−(2ρ − 1)² l) ≤ 2I − 1 ≤ 1, l < 60, ρ > 1/2."""
    rho = np.linspace(0.501, 1, 60)
    ones = jnp.ones(())
    weight = jax.vmap(
        jax.vmap(measures.rho_m_norm, (None, 0, None)), (None, None, 0)
    )(ones, jnp.asarray(rho), jnp.arange(1, 119, 2))
    half = np.arange(1, 60)[:, None]
    bound = 1 - np.exp(-((2 * rho - 1) ** 2) * half)
    assert np.all(bound <= np.asarray(weight) + 1e-5)
    assert np.all(np.asarray(weight) <= 1 + 1e-6)


@few
@given(vectors, st.floats(0, 1), st.floats(0, 100))
def test_norms_agree_with_float64(v, rho, sigma):
    g, wide = {"w": jnp.asarray(v), "n": None}, np.abs(v.astype(np.float64))
    got = measures.rho_norm(g, rho)
    scale = wide.sum() + 1e-30
    np.testing.assert_allclose(got, (2 * rho - 1) * wide.sum(), atol=1e-6 * scale)
    below = np.float64(wide + math.sqrt(3) * np.float32(sigma))
    l12 = np.sum(np.divide(wide**2, below, out=0 * wide, where=below > 0))
    np.testing.assert_allclose(measures.l12_norm(g, sigma), l12, rtol=1e-5, atol=1e-30)


def test_norms_take_trees_of_weights_and_16_bits():
    g = {"a": jnp.array([1.0, -2.0], jnp.bfloat16), "b": jnp.array([[3.0]])}
    weight = {"a": jnp.array([0.5, 1.0]), "b": jnp.float32(0.75)}
    assert measures.rho_norm(g, weight) == 3.5
    assert measures.rho_norm(g, 1) == 6
    assert measures.rho_m_norm(g, 1, 5) == 6
    assert measures.l12_norm(g, jax.tree.map(jnp.zeros_like, weight)) == 6
    assert measures.rho_norm({}, 0.5) == 0


def test_l12_norm_is_between_scaled_squared_l2_and_l1():
    sigma, c = 2.0, math.sqrt(3) * 2.0
    direction = np.abs(np.asarray(jax.random.normal(KEY, (20,)))) + 0.1
    near, far = 1e-3 * direction, 1e5 * direction
    small = float(measures.l12_norm(jnp.asarray(near), sigma))
    squared = float((near**2).sum())
    assert squared / (near.max() + c) <= small * 1.00001
    assert small <= squared / c * 1.00001
    large = float(measures.l12_norm(jnp.asarray(far), sigma))
    assert far.sum() / (1 + c / far.min()) <= large * 1.00001
    assert large <= far.sum() * 1.00001


def test_l12_norm_at_zero_and_far_out():
    assert measures.l12_norm(jnp.zeros(3), 0.0) == 0
    slope = jax.grad(measures.l12_norm)(jnp.array([0.0, 2.0]), 0.0)
    assert jnp.all(jnp.isfinite(slope))
    np.testing.assert_allclose(measures.l12_norm(jnp.array([1e30]), 1.0), 1e30)
    np.testing.assert_allclose(
        measures.l12_norm(jnp.array([1e-30]), 1e-30), 1e-30 / (1 + math.sqrt(3))
    )


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan, jnp.array([0.5, 2.0])])
def test_probabilities_outside_0_1_are_refused_unless_traced(bad):
    g = jnp.ones(2)
    with pytest.raises(ValueError, match=r"rho must be in \[0, 1\]"):
        measures.rho_norm(g, bad)
    with pytest.raises(ValueError, match=r"rho must be in \[0, 1\]"):
        measures.rho_m_norm(g, bad, 3)
    with pytest.raises(ValueError, match="rho must be"):
        jax.jit(lambda g: measures.rho_norm(g, bad))(g)  # a constant is known
    jax.jit(measures.rho_norm)(g, bad)
    if not isinstance(bad, jax.Array):
        with pytest.raises(ValueError, match=r"sigma must be in \[0, inf\]"):
            measures.l12_norm(g, -1.0 if bad > 0 else bad)


@pytest.mark.parametrize("workers", [0, -3, 2.5, math.nan, jnp.int32(0)])
def test_worker_counts_that_are_none_are_refused(workers):
    with pytest.raises(ValueError, match="workers must be an integer of at least 1"):
        measures.rho_m_norm(jnp.ones(2), 0.6, workers)


def test_weights_of_another_structure_or_shape_fail():
    g = {"a": jnp.ones(2)}
    for weight in (
        {"b": 0.5}, [0.5], {"a": jnp.ones(3)}, {"a": jnp.ones((1, 2))}, jnp.ones(3)
    ):
        for norm in (measures.rho_norm, measures.l12_norm):
            with pytest.raises((TypeError, ValueError)):
                norm(g, weight)

"""Success probabilities, Welford's statistics and the bits of Table 1."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ef_optax import measures

# success probabilities


@pytest.mark.parametrize("noise", ["normal", "laplace", "uniform"])
def test_success_probabilities_estimate_the_law_and_obey_lemma_1(noise):
    """ρ between Lemma 1's bound, its improvement, D.1's, and the exact law."""
    mean = jnp.array([-3.0, -1.0, -0.3, -0.05, 0.1, 0.5, 2.0, 5.0])
    law = {
        "normal": scipy.stats.norm(),
        "laplace": scipy.stats.laplace(scale=2**-0.5),
        "uniform": scipy.stats.uniform(-(3**0.5), 2 * 3**0.5),
    }[noise]
    count = 40_000
    rng = np.random.default_rng(1)
    samples = mean + law.rvs((count, 8), random_state=rng).astype(np.float32)
    rho = np.asarray(measures.success_probabilities(samples, mean), np.float64)
    signal = np.abs(np.asarray(mean, np.float64))  # sigma is 1
    np.testing.assert_allclose(rho, law.cdf(signal), atol=5 / math.sqrt(count))

    z = signal / math.sqrt(3)
    first = 0.5 + 0.5 * signal / (signal + math.sqrt(3))
    improved = 1 - 0.5 / (1 + z + z**2)
    gauss = np.where(
        signal > 2 / math.sqrt(3),
        1 - 2 / (9 * signal**2),
        0.5 + signal / (2 * math.sqrt(3)),
    )
    assert np.all(first <= improved) and np.all(improved <= gauss + 1e-12)
    assert np.all(gauss <= law.cdf(signal) + 1e-12)
    assert np.all(gauss <= rho + 5 / math.sqrt(count))
    # so the l^{1,2} norm is below the ρ-norm
    assert measures.l12_norm(mean, 1.0) <= measures.rho_norm(mean, rho) * 1.01


def test_mini_batches_raise_success_as_lemma_2_says():
    """ρ ≥ 1 − c/τ for σ² ≤ c g²."""
    rng = np.random.default_rng(2)
    ratio = 4.0
    for batch in (9, 20, 80):
        noise = rng.exponential(size=(20_000, batch)) - 1  # skewed, variance 1
        g = 1 / math.sqrt(ratio)
        samples = jnp.asarray((g + noise.mean(axis=1))[:, None], jnp.float32)
        rho = measures.success_probabilities(samples, jnp.array([g]))
        assert rho[0] >= 1 - ratio / batch - 0.02


def test_success_at_exact_zeros_and_nan():
    samples = jnp.array([[0.0, 0.0, 1.0], [1.0, -0.0, jnp.nan], [2.0, 3.0, 2.0]])
    rho = measures.success_probabilities(samples, jnp.array([5.0, 0.0, 1.0]))
    np.testing.assert_allclose(rho, [2 / 3, 2 / 3, 2 / 3])
    assert measures.success_probabilities(samples[:, 0], jnp.float32(jnp.nan)) == 0


def test_success_of_trees_dtypes_and_shapes():
    gradient = {"w": jnp.ones((2, 3), jnp.bfloat16), "n": None, "s": jnp.float32(-1)}
    samples = {
        "w": jnp.ones((4, 2, 3), jnp.bfloat16),
        "n": None,
        "s": jnp.array([-1.0, 1.0, -2.0, -3.0]),
    }
    rho = jax.jit(measures.success_probabilities)(samples, gradient)
    assert rho["w"].dtype == jnp.float32 and rho["w"].shape == (2, 3)
    assert rho["n"] is None and rho["s"] == 0.75
    for bad in (jnp.ones(3), jnp.ones((4, 1)), jnp.ones(()), [jnp.ones((4, 3))]):
        with pytest.raises((TypeError, ValueError)):
            measures.success_probabilities(bad, jnp.ones(3))
    none = measures.success_probabilities(jnp.ones((0, 3)), jnp.ones(3))
    assert none.shape == (3,) and jnp.all(jnp.isnan(none))


# Welford


def run(samples):
    first = jax.tree.map(lambda x: x[0], samples)

    def step(state, sample):
        return measures.welford_update(state, sample), None

    state, _ = jax.jit(
        lambda s, x: jax.lax.scan(step, s, x), donate_argnums=0
    )(measures.welford_init(first), samples)
    return state


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 50]), st.sampled_from([0, 1e2]))
def test_welford_agrees_with_numpy(seed, count, offset):
    rng = np.random.default_rng(seed)
    samples = {
        "a": jnp.asarray(offset + rng.normal(size=(count, 3, 2)), jnp.float32),
        "b": [jnp.asarray(rng.exponential(size=(count,)), jnp.float32), None],
    }
    mean, variance = measures.welford_finalize(run(samples))
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), samples)
    for got, want in (
        (mean, jax.tree.map(lambda x: x.mean(0), wide)),
        (variance, jax.tree.map(lambda x: x.var(0, ddof=1), wide)),
    ):
        assert jax.tree.structure(got) == jax.tree.structure(samples)
        jax.tree.map(
            lambda g, w: np.testing.assert_allclose(g, w, rtol=2e-4, atol=1e-6),
            got,
            want,
        )


@pytest.mark.parametrize("offset", [1e3, 1e4, -1e5])
def test_welford_on_a_mean_far_larger_than_the_spread(offset):
    rng = np.random.default_rng(4)
    samples = jnp.asarray(offset + rng.normal(size=(3000, 20)), jnp.float32)
    mean, variance = measures.welford_finalize(run(samples))
    wide = np.asarray(samples, np.float64)
    spacing = abs(offset) * 1.2e-7
    np.testing.assert_allclose(mean, wide.mean(0), atol=30 * spacing)
    np.testing.assert_allclose(variance, wide.var(0, ddof=1), rtol=0.02)
    naive = (samples**2).mean(0) - samples.mean(0) ** 2
    assert np.abs(naive - wide.var(0)).max() > 5 * np.abs(
        variance - wide.var(0, ddof=1)
    ).max()


def test_welford_counts_as_numpy_below_two_samples():
    state = measures.welford_init(jnp.zeros(2))
    mean, variance = measures.welford_finalize(state)
    assert jnp.all(jnp.isnan(mean)) and jnp.all(jnp.isnan(variance))
    state = measures.welford_update(state, jnp.array([1.0, 2.0]))
    mean, variance = measures.welford_finalize(state)
    np.testing.assert_array_equal(mean, [1, 2])
    assert jnp.all(jnp.isnan(variance))
    state = measures.welford_update(state, jnp.array([3.0, 2.0]))
    np.testing.assert_array_equal(measures.welford_finalize(state)[1], [2, 0])


def test_welford_types_are_stable_and_wide():
    shapes = {"w": jax.ShapeDtypeStruct((3,), jnp.float16)}
    state = measures.welford_init(shapes)
    abstract = jax.eval_shape(measures.welford_init, shapes)
    sample = {"w": jnp.full(3, 300.0, jnp.float16)}  # its square passes float16
    after = measures.welford_update(state, sample)
    after = measures.welford_update(after, sample)
    for made in (abstract, after):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
    assert state.mean["w"].dtype == jnp.float32 and state.count.dtype == jnp.int32
    mean, variance = measures.welford_finalize(after)
    np.testing.assert_array_equal(mean["w"], 300)
    np.testing.assert_array_equal(variance["w"], 0)


def test_welford_refuses_another_tree():
    state = measures.welford_init({"w": jnp.zeros(3)})
    for leaf in (jnp.zeros(2), jnp.zeros(1), jnp.zeros(()), jnp.zeros((2, 3))):
        with pytest.raises(TypeError, match="reshape"):  # and no broadcast
            measures.welford_update(state, {"w": leaf})
    for tree in ({"v": jnp.zeros(3)}, jnp.zeros(3)):
        with pytest.raises(ValueError, match=r"(?i)structure|dict"):
            measures.welford_update(state, tree)
    with pytest.raises(ValueError, match=r"welford_update .*\['w'\].*optax.masked"):
        measures.welford_update(state, {"w": jnp.arange(3)})


def test_noise_density_of_the_papers_figure():
    """φ(g) and φ(σ) from one pass, as in Figure 1 of Bernstein et al."""
    key = jax.random.key(0)
    spread = jnp.array([1.0, 1.0, 0.1, 0.0])
    samples = 2.0 + spread * jax.random.normal(key, (500, 4))
    mean, variance = measures.welford_finalize(run(samples))
    sigma = jax.tree.map(jnp.sqrt, variance)
    assert measures.density(mean) > 0.99
    assert abs(float(measures.density(sigma)) - 2.1**2 / (4 * 2.01)) < 0.03
    assert float(optax.tree.norm(sigma)) == pytest.approx(math.sqrt(2.01), rel=0.1)


# Table 1


@pytest.mark.parametrize("workers", [1, 2, 8, 1000])
@pytest.mark.parametrize("parameters", [1, 11_220_132])
def test_table_1(parameters, workers):
    both = parameters * workers
    ternary = (2 + math.log2(2 * workers + 1)) * both
    bits = {
        method: measures.bits_per_step(method, parameters, workers)
        for method in ("sgd", "qsgd", "terngrad", "majority_vote")
    }
    assert bits["sgd"] == 64 * both and bits["majority_vote"] == 2 * both
    assert bits["qsgd"] == bits["terngrad"] == pytest.approx(ternary)
    assert bits["sgd"] / bits["majority_vote"] == 32


def test_table_1_refuses_what_is_not_in_it():
    allowed = r"sgd, qsgd, terngrad, majority_vote.*'top_k'"
    with pytest.raises(ValueError, match=allowed):
        measures.bits_per_step("top_k", 10, 2)
    for bad in (2.0, None):
        with pytest.raises(TypeError, match="integer"):
            measures.bits_per_step("sgd", bad, 2)
        with pytest.raises(TypeError, match="integer"):
            measures.bits_per_step("sgd", 2, bad)
    # In NumPy's own integers of 32 bits this would overflow.
    many = np.int32(2**30)
    assert measures.bits_per_step("sgd", many, np.int32(2)) == 2.0**37


def test_importing_measures_loads_no_optional_package():
    code = (
        "import sys, ef_optax.measures; "
        "print([m for m in ('scipy', 'flax', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"

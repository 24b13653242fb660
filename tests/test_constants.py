"""The constants of compressors: contraction and variance, at vectors that attain them.

Assumption A, Lemma 8 and Remark 5 of Karimireddy et al., and the stochastic sign of
Safaryan and Richtarik, appendix E.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ef_optax as eo

RNG = np.random.default_rng(0)


def one_hot(d):
    return jnp.zeros(d).at[d // 2].set(-3.0)


# Assumption A, |C(x) - x|^2 <= (1 - delta) |x|^2, with a vector that attains it.
@pytest.mark.parametrize(
    ("compressor", "worst", "delta"),
    [
        (eo.identity(), jnp.ones(5), 1.0),
        (eo.scaled_sign(), one_hot(9), 1 / 9),
        (eo.scaled_sign(), [jnp.zeros(3), one_hot(12)], 1 / 12),
        (eo.scaled_sign("tree"), [jnp.zeros(3), one_hot(12)], 1 / 15),
        (eo.scaled_sign(4), one_hot(9), 1 / 4),
        (eo.scaled_sign(zero="positive"), one_hot(9), 1 / 9),
        (eo.top_k(k=3), jnp.ones(10), 3 / 10),
        (eo.top_k(k=3), [jnp.zeros(4), -jnp.ones((2, 5))], 3 / 10),
        (eo.top_k(k=3, per="tree"), [jnp.ones(4), -jnp.ones((2, 5))], 3 / 14),
        (eo.top_k(fraction=0.5), jnp.ones(7), 4 / 7),
        (eo.k_pca(2), jnp.eye(4, 5), 2 / 4),
        (eo.k_pca(2), [jnp.zeros(7), jnp.eye(6).reshape(2, 3, 6)], 2 / 6),
        (eo.k_pca(2), [jnp.ones(7), jnp.ones((2, 9))], 1.0),
        (eo.cast("bfloat16"), jnp.full(3, 1 + 2.0**-8), 1 - 2.0**-16),
        (eo.cast("float16"), jnp.full(3, 1 + 2.0**-11), 1 - 2.0**-22),
    ],
)
def test_contraction_is_the_constant_of_the_worst_vector(compressor, worst, delta):
    assert compressor.contraction(worst) == pytest.approx(delta, rel=1e-12)
    # With sign(0) = 0 a one-hot vector loses still less: 1 - phi (2 - nnz/d).
    lost = float(eo.contraction(compressor, worst))
    assert lost <= (1 - delta) * (1 + 1e-6)
    if not compressor.name.startswith("scaled_sign") or "positive" in compressor.name:
        assert lost == pytest.approx(1 - delta, rel=0.01)


def test_lemma_8_scaled_sign_loses_exactly_one_minus_the_density():
    layers = {"a": RNG.standard_normal((5, 8)) ** 5, "b": RNG.standard_normal(13)}
    layers = {n: jnp.float32(x) for n, x in layers.items()}
    pers = ("tree", "leaf", 6)
    lost = jax.jit(
        lambda v: [eo.contraction(eo.scaled_sign(p), v) for p in pers])(layers)
    x = {n: np.float64(v).ravel() for n, v in layers.items()}
    parts = {
        "tree": [np.concatenate([*x.values()])],
        "leaf": [*x.values()],
        6: [v[i:i + 6] for v in x.values() for i in range(0, v.size, 6)],
    }
    total = sum((v**2).sum() for v in x.values())
    for per, got in zip(pers, lost, strict=True):
        phi = sum(np.abs(v).sum() ** 2 / v.size for v in parts[per]) / total
        np.testing.assert_allclose(got, 1 - phi, rtol=1e-5)
    np.testing.assert_allclose(lost[0], 1 - eo.density(layers), rtol=1e-5)


def test_lemma_8_with_zeros_depends_on_the_sign_of_zero():
    v = jnp.array([3.0, 0.0, -1.0, 0.0, 0.0])
    phi, nonzeros = float(eo.density(v)), 2 / 5
    for zero in ("positive", "random"):
        lost = eo.contraction(eo.scaled_sign(zero=zero, key=0 if zero == "random"
                                             else None), v)
        np.testing.assert_allclose(lost, 1 - phi, rtol=1e-6)
    lost = eo.contraction(eo.scaled_sign(zero="zero"), v)
    np.testing.assert_allclose(lost, 1 - phi * (2 - nonzeros), rtol=1e-6)


def draws(make, x, count=20_000):
    """C(x) of many keys."""
    return np.asarray(jax.jit(jax.vmap(
        lambda key: make(key).update(x, make(key).init(x))[0]
    ))(jax.random.split(jax.random.key(1), count)), np.float64)


def assert_mean(samples, wanted):
    """The mean within five standard errors, which are small enough to tell."""
    error = samples.std(0) / math.sqrt(len(samples))
    assert (np.abs(samples.mean(0) - wanted) <= 5 * error + 1e-6).all()


X = jnp.float32(RNG.standard_normal(8) ** 3)


@pytest.mark.parametrize(
    ("make", "omega"),
    [(lambda key: eo.random_k(k=3, key=key, scaled=True), 8 / 3 - 1),
     (eo.stochastic_sign, 8 - 1)], ids=["random-k", "stochastic sign"])
def test_unbiased_compressors_have_their_mean_and_variance(make, omega):
    samples, norm = draws(make, X), (np.float64(X) ** 2).sum()
    assert_mean(samples, X)
    assert make(0).variance(X) == pytest.approx(omega)
    assert make(0).contraction(X) is None
    assert_mean(((samples - X) ** 2).sum(1) / norm, omega)  # neither more nor less
    tree = [np.ones(2), np.ones((4, 5)), np.ones(())]
    assert make(0).variance(tree) == pytest.approx(
        19 if "stochastic" in make(0).name else 20 / 3 - 1)
    if "stochastic" in make(0).name:  # |C|^2 = d |x|^2 surely
        np.testing.assert_allclose((samples**2).sum(1), 8 * norm, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "delta"),
    [(lambda key: eo.random_k(k=3, key=key), 3 / 8),
     (lambda key: eo.random_k(k=3, key=key, scaled=True), 3 / 8),
     (eo.stochastic_sign, 1 / 8)],
    ids=["random-k", "scaled random-k", "stochastic sign"])
def test_remark_5_what_error_feedback_uses_contracts_in_expectation(make, delta):
    samples = draws(lambda key: make(key).contractive, X)
    norm = (np.float64(X) ** 2).sum()
    assert make(0).contractive.contraction(X) == pytest.approx(delta)
    assert_mean(((samples - X) ** 2).sum(1) / norm, 1 - delta)


def test_random_k_draws_every_set_alike_anew_at_every_step_and_leaf():
    kept = draws(lambda key: eo.random_k(k=2, key=key), jnp.ones(5)) != 0
    _, counts = np.unique(kept @ 2 ** np.arange(5), return_counts=True)
    assert len(counts) == 10 and scipy.stats.chisquare(counts).pvalue > 1e-4
    tx, x = eo.random_k(k=50, key=3), {"a": jnp.ones(200), "b": jnp.ones(200)}
    first, state = tx.update(x, tx.init(x))
    again, _ = tx.update(x, tx.init(x))
    second, _ = tx.update(x, state)
    masks = [np.asarray(t[n]) for t in (first, second) for n in "ab"]
    np.testing.assert_array_equal(first["a"], again["a"])
    # Chance alone puts 12.5 of 50 in common; the same mask would have all.
    overlaps = [int((a * b).sum()) for i, a in enumerate(masks) for b in masks[:i]]
    assert max(overlaps) < 30

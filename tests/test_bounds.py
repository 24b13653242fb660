"""The papers' bounds, held by the library's own methods, and not by far."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

import ef_optax as eo

RNG = np.random.default_rng(0)


def assert_mean(samples, wanted):
    """The mean within five standard errors, which are small enough to tell."""
    error = samples.std(0) / math.sqrt(len(samples))
    assert (np.abs(samples.mean(0) - wanted) <= 5 * error + 1e-6).all()


def error_norms(tx, gradients):
    """|e_t| after every step; gradients are [steps, d]."""

    def step(state, g):
        _, state = tx.update(g, state)
        return state, eo.error_norm(state)

    return jax.lax.scan(step, tx.init(gradients[0]), gradients)[1]


RATE, D = 0.5, 10


@pytest.mark.parametrize(
    ("compressor", "delta", "least"),
    [(eo.top_k(k=1), 1 / D, 0.25), (eo.top_k(k=5), 5 / D, 0.2),
     (eo.scaled_sign(), 1 / D, 0.02)], ids=["top-1", "top-5", "scaled sign"])
def test_lemma_3_the_error_stays_within_its_bound(compressor, delta, least):
    kinds = {
        "constant": np.ones((200, D)),
        "random": RNG.standard_normal((200, D)),
        "sparse": np.eye(D)[RNG.integers(0, D, 200)],
        "spiky": RNG.standard_normal((200, D)) ** 7,
    }
    unit = jnp.float32([g / np.linalg.norm(g, axis=1, keepdims=True)
                        for g in kinds.values()])
    tx = eo.ef_sgd(RATE, compressor)
    largest = float(jax.jit(jax.vmap(lambda g: error_norms(tx, g)))(unit).max())
    root = math.sqrt(1 - delta)
    deterministic = RATE * root / (1 - root)
    assert least * deterministic < largest <= deterministic
    assert largest**2 <= 4 * (1 - delta) * RATE**2 / delta**2


@pytest.mark.parametrize("k", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_lemma_3_in_expectation_for_random_k(k):
    delta, runs = k / D, 4000
    g = jnp.float32(RNG.standard_normal(D))

    def late(key):
        tx = eo.ef_sgd(RATE, eo.random_k(k=k, key=key))
        return error_norms(tx, jnp.broadcast_to(g, (120, D)))[-1] ** 2

    samples = np.asarray(jax.jit(jax.vmap(late))(
        jax.random.split(jax.random.key(0), runs)), np.float64)
    second = float((g**2).sum())
    tight = 2 * (1 - delta) * (2 - delta) / delta**2 * RATE**2 * second
    assert samples.mean() <= tight <= 4 * (1 - delta) / delta**2 * RATE**2 * second
    # A coordinate waits a geometric time: for one gradient, half of the bound.
    assert_mean(samples, tight / 2)


@pytest.mark.parametrize(
    "compressor", [eo.scaled_sign(), eo.top_k(k=4), eo.random_k(k=4), eo.k_pca(1)],
    ids=["scaled sign", "top-k", "random-k", "k-PCA"])
def test_theorem_iv_iterates_are_no_farther_from_the_span_than_the_error(compressor):
    shape, steps = (6, 8), 30
    gradients = jnp.float32(RNG.standard_normal((steps, *shape)))
    tx = eo.ef_sgd(0.1, compressor)

    def step(carry, g):
        x, state = carry
        u, state = tx.update(g, state)
        x = optax.apply_updates(x, u)
        return (x, state), (x, eo.error_norm(state))

    x0 = jnp.zeros(shape)
    xs, errors = jax.jit(
        lambda g: jax.lax.scan(step, (x0, tx.init(x0)), g)[1])(gradients)
    largest = np.linalg.norm(gradients, axis=(1, 2)).max()
    for t in range(steps):
        past = np.float64(gradients[:t + 1]).reshape(t + 1, -1)
        basis = np.linalg.qr(past.T)[0]
        x = np.float64(xs[t]).ravel()
        distance = np.linalg.norm(x - basis @ (basis.T @ x))
        assert distance <= errors[t] + 1e-5
        # Remark 10, for compressors that contract at every step.
        if not compressor.name.startswith("random_k"):
            delta = compressor.contraction(x0)
            assert distance <= 2 * 0.1 * math.sqrt(1 - delta) / delta * largest
    np.testing.assert_allclose(
        eo.measures.span_distance(xs[-1], gradients), distance, rtol=1e-3, atol=1e-5)
    assert distance > 0.1 * float(errors[-1])  # not by far


def test_lemma_9_error_feedback_finds_the_solution_of_least_norm():
    n, d = 6, 30
    a = jnp.float32(RNG.standard_normal((n, d)))
    y = jnp.sign(jnp.float32(RNG.standard_normal(n)))
    least = np.linalg.lstsq(np.float64(a), np.float64(y), rcond=None)[0]

    def solve(tx, steps=4000):
        def step(carry, _):
            x, state = carry
            u, state = tx.update(2 * a.T @ (a @ x - y), state)
            return (optax.apply_updates(x, u), state), None

        x = jnp.zeros(d)
        (x, _), _ = jax.jit(lambda: jax.lax.scan(
            step, (x, tx.init(x)), length=steps))()
        return np.asarray(x), float(jnp.sum((a @ x - y) ** 2))

    for tx in (eo.ef_sign_sgd(0.002), eo.ef_sgd(0.002, eo.top_k(k=3))):
        x, loss = solve(tx)
        assert loss < 1e-9
        np.testing.assert_allclose(x, least, atol=1e-4)
    x, loss = solve(eo.sign_sgd(lambda t: 0.01 * 0.997**t))
    assert loss < 1e-5
    assert np.linalg.norm(x - least) > 0.3 * np.linalg.norm(least)


def test_theorem_ii_as_its_proof_gives_it():
    d, steps, runs = 20, 300, 64
    h = jnp.float32(np.linspace(0.1, 1, d))  # L = 1

    def gradients(key, tx):
        def step(carry, key):
            x, state = carry
            g = h * x
            noisy = g + jax.random.normal(key, (d,))
            u, state = tx.update(noisy, state)
            return (x + u, state), (jnp.sum(g**2), jnp.sum(noisy**2))

        x = jnp.ones(d)
        return jax.lax.scan(step, (x, tx.init(x)), jax.random.split(key, steps))[1]

    rates = jnp.array([0.02, 0.1])
    keys = jax.random.split(jax.random.key(0), runs)
    for k in (2, 10):
        square, second = jax.jit(jax.vmap(lambda rate, k=k: jax.vmap(
            lambda key: gradients(key, eo.ef_sgd(rate, eo.top_k(k=k))))(keys)))(rates)
        sigma2 = second.mean(1).max(1)
        bound = (float(h.sum()) / (rates * steps) + rates * sigma2
                 + 4 * rates**2 * sigma2 * (1 - k / d) / (k / d) ** 2)
        assert (square.mean(1).min(1) <= bound).all()


@functools.cache
def votes(workers, **kwargs):
    """What the vote gives where 0, 1, ... all workers are right: +1 is right."""
    ballots = np.where(np.arange(workers)[:, None] < np.arange(workers + 1), 1.0, -1.0)
    tx = eo.majority_vote("w", **kwargs)
    vote = jax.jit(jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="w"))
    return np.asarray(vote(jnp.float32(ballots)))[0]


def law(workers, rho):
    """How probable it is that so many are right, each with probability rho."""
    return scipy.stats.binom.pmf(
        np.arange(workers + 1), workers, np.reshape(rho, (-1, 1)))


RHO = np.linspace(0.02, 0.98, 25)


@pytest.mark.parametrize("half", [1, 2, 4])
def test_s_lemma_8_an_even_vote_is_worth_that_of_one_worker_less(half):
    wanted = 2 * scipy.special.betainc(half, half, RHO) - 1
    for workers in (2 * half - 1, 2 * half):
        got = law(workers, RHO) @ votes(workers)
        np.testing.assert_allclose(got, wanted, atol=1e-12)
        weight = eo.measures.rho_m_norm(jnp.ones(1), jnp.float32(RHO[3]), workers)
        np.testing.assert_allclose(got[3], weight, atol=1e-6)


def test_s_lemma_8_needs_ties_that_favour_no_side():
    # Two workers, right with probability 0.6: worth 0.2 as one alone.
    chance = law(2, 0.6)[0]
    assert chance @ votes(2) == pytest.approx(0.2)
    up = votes(2, tie="positive")
    assert chance @ up == pytest.approx(0.68)  # where the gradient is positive,
    assert -(law(2, 0.4)[0] @ up) == pytest.approx(-0.28)  # and where it is negative
    # Fair ties are right again, in the mean.
    tx = eo.majority_vote("w", tie="random", key=0)
    g = jnp.stack([jnp.ones(20_000), -jnp.ones(20_000)])
    ties = jax.jit(jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="w"))(g)
    assert set(np.unique(ties)) == {-1, 1}
    assert_mean(np.float64(ties[0]), 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 39])
def test_a_vote_is_wrong_no_more_often_than_bernstein_et_al_say(workers):
    # Symmetric unimodal noise with S = |g| / sigma; sqrt(M) S in Theorem 2.
    signal = np.linspace(0.05, 4, 30)
    wrong = law(workers, scipy.stats.norm.cdf(signal)) @ (votes(workers) != 1)
    assert (wrong <= 1 / (math.sqrt(workers) * signal)).all()
    if workers == 1:
        assert (wrong <= 1 / (1 + signal**2)).all()  # Cantelli, section 3
        gauss = np.where(signal > 2 / math.sqrt(3), 2 / (9 * signal**2),
                         0.5 - signal / (2 * math.sqrt(3)))
        assert (wrong <= gauss + 1e-12).all()  # Lemma D.1
        assert (wrong >= 0.5 * gauss).any()


def test_with_skewed_noise_more_workers_are_worse():
    # Remark 3: 50 with probability 0.1, else -1: the mean is positive.
    right = [law(m, 0.1)[0] @ (votes(m) == 1) for m in (1, 3, 9)]
    assert right[0] == pytest.approx(0.1)
    assert right[1] < 0.3 * right[0] and right[2] < 0.04 * right[1]


def test_update_noise_is_one_for_all_workers_and_of_the_stated_deviation():
    d, sigma, workers, steps = 20_000, 0.3, 3, 4
    tx = eo.sign_sgd(0.5, axis_name="w", noise=sigma, key=7)
    noise = jax.random.normal(jax.random.key(0), (workers, d))

    def one(g):
        def step(state, _):
            u, state = tx.update({"a": g, "b": -g}, state)
            return state, u

        return jax.lax.scan(step, tx.init({"a": g, "b": g}), length=steps)[1]

    updates = jax.jit(jax.vmap(one, axis_name="w"))(noise)
    vote = np.sign(np.sign(noise).sum(0))
    drawn = []
    for name, direction in (("a", 1), ("b", -1)):
        u = np.asarray(updates[name], np.float64)
        np.testing.assert_array_equal(u, u[:1].repeat(workers, 0))
        drawn += list(u[0] / -0.5 - direction * vote)
    for z in drawn:  # standard deviations of the estimates: 0.5% and 0.7%
        assert abs(z.std() / sigma - 1) < 0.025
        assert abs(z.mean()) < 0.035 * sigma
        assert scipy.stats.kstest(z / sigma, "norm").pvalue > 1e-4
    # Fresh at every step and in every leaf.
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.035

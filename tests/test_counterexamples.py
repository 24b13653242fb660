"""The problems on which signSGD fails, and what error feedback does about them.

Counterexamples 1 to 3 and Theorem I of Karimireddy et al.; Safaryan and Richtarik,
section 2.2. Rates that are powers of two keep the arithmetic exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import quick_compilation  # noqa: F401

import ef_optax as eo

EPSILON = 0.5
START = jnp.array([1.0, 1.0])
RATES = {
    "constant": lambda t: 2.0**-6,
    "large": lambda t: 1.0,
    "halved": lambda t: 2.0 ** -(t // 40 + 2.0),
    "1/sqrt": lambda t: 0.5 / jnp.sqrt(t + 1.0),
    "growing": lambda t: 2.0**-10 * (t + 1),
}


def descend(tx, gradient, steps, start=START, seed=0, workers=None):
    """Returns all points; ``gradient(x, key)``, a key for each step and worker."""

    def one(worker):
        own = jax.random.fold_in(jax.random.key(seed), worker)

        def step(carry, t):
            x, state = carry
            key = jax.random.fold_in(own, t)
            u, state = tx.update(gradient(x, key), state, x)
            x = optax.apply_updates(x, u)
            return (x, state), x

        return jax.lax.scan(step, (start, tx.init(start)), jnp.arange(steps))[1]

    if workers is None:
        return np.asarray(jax.jit(one)(0), np.float64)
    out = jax.jit(jax.vmap(one, axis_name="w"))(jnp.arange(workers))
    np.testing.assert_array_equal(out, out[:1].repeat(workers, 0))
    return np.asarray(out[0], np.float64)


# Counterexample 1: f = x/4, gradients 4 (one in four) and -1.


def test_1_sign_sgd_goes_up_and_sgd_down_in_expectation():
    g = jnp.array([4.0, -1.0, -1.0, -1.0])  # equally likely
    rate = 2.0**-3

    def mean_change_of_f(tx):
        updates = jax.vmap(lambda g: tx.update(g, tx.init(g))[0])(g)
        return float(updates.mean()) / 4

    assert mean_change_of_f(eo.sign_sgd(rate)) == rate / 8
    for tx in (eo.ef_sgd(rate, eo.identity()), eo.scaled_sign_sgd(rate),
               eo.ef_sign_sgd(rate)):  # a scaled sign in one dimension is SGD
        assert mean_change_of_f(tx) == -rate / 16


def test_1_projected_sign_sgd_stays_at_the_maximum_and_error_feedback_leaves_it():
    def second_half(tx, key):
        def step(carry, key):
            x, state = carry
            g = jnp.where(jax.random.bernoulli(key, 0.25), 4.0, -1.0)
            u, state = tx.update(g, state)
            return (jnp.clip(x + u, -1.0, 1.0), state), x

        x = jnp.array(1.0)
        keys = jax.random.split(key, 2000)
        return jax.lax.scan(step, (x, tx.init(x)), keys)[1][1000:].mean()

    keys = jax.random.split(jax.random.key(0), 20)
    stuck, right = (
        jax.jit(jax.vmap(lambda key, tx=tx: second_half(tx, key)))(keys)
        for tx in (eo.sign_sgd(0.02), eo.ef_sign_sgd(0.02)))
    assert stuck.min() > 0.9  # of x/4 on [-1, 1]
    assert right.max() < -0.6


# Counterexample 2: f = eps |x1 + x2| + |x1 - x2| and its subgradient.


def loss_2(x):
    return EPSILON * np.abs(x.sum(-1)) + np.abs(x[..., 0] - x[..., 1])


def subgradient(sign):
    def gradient(x, key):
        del key
        return (EPSILON * sign(x[0] + x[1]) * jnp.ones(2)
                + sign(x[0] - x[1]) * jnp.array([1.0, -1.0]))

    return gradient


def plus_or_minus(x):
    """The sign in the subgradient, with sign(0) = 1."""
    return jnp.where(x >= 0, 1.0, -1.0)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("method", [eo.sign_sgd, eo.scaled_sign_sgd])
def test_2_the_sign_and_the_scaled_sign_never_leave_the_line(method, rate):
    points = descend(method(RATES[rate]), subgradient(plus_or_minus), 300)
    np.testing.assert_allclose(points.sum(1), 2, rtol=0, atol=3e-5)
    assert (loss_2(points) >= 2 * EPSILON - 1e-4).all()


@pytest.mark.parametrize(
    "tx",
    [eo.ef_sign_sgd(lambda t: 0.5 / jnp.sqrt(t + 1.0)),
     eo.ef_sgd(lambda t: 0.5 / jnp.sqrt(t + 1.0), eo.top_k(k=1)),
     eo.ef_sgd(lambda t: 0.5 / jnp.sqrt(t + 1.0), eo.identity())],
    ids=["EF-signSGD", "EF top-1 (Remark 7)", "SGD"])
def test_2_error_feedback_and_sgd_converge(tx):
    points = descend(tx, subgradient(plus_or_minus), 4000)
    assert loss_2(points[-100:].mean(0)) < 0.02
    assert loss_2(points)[-100:].max() < 0.1


def test_2_needs_a_subgradient_whose_sign_of_zero_is_not_zero():
    # At (1, 1), on the line x1 = x2, sign(0) = 0 leaves only the direction (1, 1).
    points = descend(eo.sign_sgd(2.0**-6), subgradient(jnp.sign), 100)
    np.testing.assert_array_equal(points[0], START - 2.0**-6)
    assert loss_2(points[-1]) == 0


# Counterexample 3: f = <a1, x>^2 + <a2, x>^2, one of the two drawn for a gradient.

A = jnp.array([[1.0, -1.0], [-1.0, 1.0]]) + EPSILON


def loss_3(x):
    return ((x @ np.asarray(A, np.float64).T) ** 2).sum(-1)


def one_term(x, key):
    a = A[jax.random.randint(key, (), 0, 2)]
    return 2 * jnp.dot(a, x) * a


@pytest.mark.parametrize("rate", RATES)
def test_3_sign_sgd_stays_on_the_line(rate):
    points = descend(eo.sign_sgd(RATES[rate]), one_term, 400)
    np.testing.assert_allclose(points.sum(1), 2, rtol=0, atol=3e-5)
    assert (loss_3(points) >= loss_3(np.ones(2)) - 1e-4).all()


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_3_so_does_the_vote_of_an_odd_number_of_workers(workers):
    tx = eo.sign_sgd(2.0**-6, axis_name="w")
    points = descend(tx, one_term, 400, workers=workers)
    np.testing.assert_array_equal(points.sum(1), 2)


def test_3_and_of_an_even_number_only_if_ties_move_nothing():
    sums = {
        tie: descend(eo.sign_sgd(2.0**-6, axis_name="w", tie=tie, key=key), one_term,
                     400, workers=4).sum(1)
        for tie, key in (("zero", None), ("positive", None), ("random", 1))
    }
    np.testing.assert_array_equal(sums["zero"], 2)
    assert np.abs(sums["positive"] - 2).max() > 0.5
    assert np.abs(sums["random"] - 2).max() > 0.05


@pytest.mark.parametrize(
    ("tx", "workers"),
    [(eo.ef_sign_sgd(0.02), None), (eo.ef_sgd(0.02, eo.top_k(k=1)), None),
     (eo.ef_sgd(0.02, eo.identity()), None), (eo.ef_sign_sgd(0.02, axis_name="w"), 3)],
    ids=["EF-signSGD", "EF top-1", "SGD", "EF-signSGD of 3 workers"])
def test_3_error_feedback_and_sgd_converge(tx, workers):
    points = descend(tx, one_term, 3000, workers=workers)
    assert loss_3(points[-1]) < 1e-6
    assert np.abs(points[-1]).max() < 1e-3


@pytest.mark.parametrize("momentum", ["ema", "heavy_ball"])
def test_3_momentum_escapes_although_the_paper_extends_the_example_to_it(momentum):
    # Terms of different size average to a vector whose sign is not always ±(1, -1).
    tx = eo.signum(lambda t: 0.1 / jnp.sqrt(t + 1.0), 0.9, momentum=momentum)
    points = descend(tx, one_term, 4000)
    assert np.abs(points.sum(1) - 2).max() > 1
    assert loss_3(points[-1]) < 0.01 * loss_3(np.ones(2))


# Theorem I: sign(a_i) = ±s in any dimension, batches of one, any rates.


@pytest.mark.parametrize("rate", ["halved", "1/sqrt"])
def test_theorem_i_sign_sgd_never_leaves_a_line_through_its_start(rate):
    rng = np.random.default_rng(0)
    n, d = 9, 6
    s = rng.choice([-1.0, 1.0], d)
    a = jnp.float32(np.abs(rng.standard_normal((n, d))) * s
                    * rng.choice([-1.0, 1.0], (n, 1)))
    best = np.float32(rng.standard_normal(d))  # the one optimum: a has rank d

    def one_term(x, key):
        i = jax.random.randint(key, (), 0, n)
        return 2 * jnp.dot(a[i], x - best) * a[i]

    def away(points):
        """The largest distance from the line x_0 + R s, and the last from the best."""
        across = points - np.outer(points @ s / d, s)
        return np.linalg.norm(across, axis=1).max(), np.linalg.norm(points[-1] - best)

    start = jnp.zeros(d)
    for method in (eo.sign_sgd, eo.scaled_sign_sgd):
        line, _ = away(descend(method(RATES[rate]), one_term, 300, start))
        assert line < 1e-5
    line, end = away(descend(eo.ef_sign_sgd(0.01), one_term, 6000, start))
    assert line > 0.1 and end < 1e-2

"""The study of over-parameterised least squares: data, spans, bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ef_optax as eo
from experiments import _cli
from experiments.toys._descent import descend
from experiments.toys.least_squares import Config, _data, _runs, _span

SMALL = Config(points=20, steps=60, repeats=2, tune_repeats=1)


# Data.


def test_the_matrix_is_that_of_appendix_a6():
    labels = np.array([1.0, -1.0, 1.0])
    # y, 1, 1, then for each point its own five: one of them if y = 1, else all.
    np.testing.assert_array_equal(_data.matrix(labels), [
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [-1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]])
    a = _data.matrix(_data.draw(200, 0).labels)
    assert a.shape == (200, 1200) and np.linalg.matrix_rank(a) == 200


def test_halves_are_disjoint_and_drawn():
    data = _data.draw(200, 3)
    assert sorted([*data.train, *data.test]) == list(range(200))
    assert len(data.train) == len(data.test) == 100
    assert set(data.labels) == {-1.0, 1.0}
    assert (_data.draw(200, 4).train != data.train).any()


def test_products_losses_and_gradients_are_those_of_the_matrix():
    data = _data.draw(20, 1)
    a = _data.matrix(data.labels)
    x = np.random.default_rng(0).standard_normal(a.shape[1])
    half, y = a[data.train], data.labels[data.train]
    with jax.enable_x64(True):
        np.testing.assert_allclose(_data.predict(jnp.array(x), data.labels), a @ x)
        train, test = _data.losses(jnp.array(x), data)
        g = _data.gradient(jnp.array(x), data)
    assert float(train) == pytest.approx(((half @ x - y) ** 2).mean())
    assert float(test) == pytest.approx(
        ((a[data.test] @ x - data.labels[data.test]) ** 2).mean())
    np.testing.assert_allclose(g, half.T @ (half @ x - y) / 10, atol=1e-12)


def test_row_space_and_least_norm_solution_are_those_of_linear_algebra():
    data = _data.draw(20, 2)
    half = _data.matrix(data.labels)[data.train]
    space = _data.rows(data)
    np.testing.assert_allclose(
        space.least, np.linalg.pinv(half) @ data.labels[data.train], atol=1e-12)
    x = np.random.default_rng(0).standard_normal(half.shape[1])
    basis, _ = np.linalg.qr(half.T)
    with jax.enable_x64(True):
        measured = _data.beyond_rows(jnp.array(x), data, space)
    assert float(measured) == pytest.approx(
        np.linalg.norm(x - basis @ (basis.T @ x)), rel=1e-10)


# The span.


def test_the_span_kept_step_by_step_is_that_of_all_gradients_at_once():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, 12))
    gradients = np.stack([
        rows[0], 1e-6 * rows[0], np.zeros(12), rows[1], rows[0] - 2 * rows[1], rows[2]])
    tx, x = _span.remember_span(4), rng.standard_normal(12)
    with jax.enable_x64(True):
        state, update = tx.init(jnp.array(x)), jax.jit(tx.update)
        for t, g in enumerate(gradients, 1):
            out, state = update(jnp.array(g), state)
            np.testing.assert_array_equal(out, g)
            if t in (2, 6):
                at_once = jax.jit(eo.measures.span_distance)(x, gradients[:t])
                ours = jax.jit(_span.span_distance)(x, state)
                assert float(ours) == pytest.approx(float(at_once), rel=1e-9)
        assert int(state.rank) == 3
        assert float(state.largest) == pytest.approx(
            np.linalg.norm(gradients, axis=1).max())


def test_a_span_without_room_is_not_measured():
    tx = _span.remember_span(2)
    state = tx.init(jnp.zeros(3))
    for g in np.eye(3, dtype=np.float32):
        assert np.isfinite(_span.span_distance(jnp.ones(3), state))
        _, state = tx.update(jnp.array(g), state)
    assert np.isnan(_span.span_distance(jnp.ones(3), state))


# Runs.


def test_what_is_recorded_changes_nothing():
    g = np.random.default_rng(0).standard_normal((10, 6)).astype(np.float32)
    ours, theirs = (
        descend(tx, lambda x, z: x + z, jnp.ones(6), g)
        for tx in (_runs.ef_sign_sgd(0.2), eo.ef_sign_sgd(0.2)))
    np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def courses():
    rates = {name: 0.002 for name in _runs.methods(SMALL)}
    rates |= {"SGD": 0.5, "EF-signSGD": 2.0}
    with jax.enable_x64(True):
        return _runs.courses(rates, SMALL)


def test_ef_sign_sgd_is_algorithm_1_and_theorem_iv_holds(courses):
    seen, data = courses["EF-signSGD"], _data.draw(20, SMALL.seed + 1)
    half, y = _data.matrix(data.labels)[data.train], data.labels[data.train]
    x, e, gradients, least = np.zeros(120), np.zeros(120), [], 1.0
    for t in range(SMALL.steps):
        g = half.T @ (half @ x - y) / 10
        gradients.append(g)
        p = 2.0 * g + e
        least = min(least, abs(p).sum() ** 2 / (120 * (p @ p)))
        step = abs(p).mean() * np.sign(p)
        x, e = x - step, p - step
        inside = np.stack(gradients).T @ np.linalg.lstsq(
            np.stack(gradients).T, x, rcond=1e-9)[0]
        distance = np.linalg.norm(x - inside)
        assert seen.span[1, t + 1] == pytest.approx(distance, abs=1e-6)
        assert seen.error[1, t + 1] == pytest.approx(np.linalg.norm(e), rel=1e-6)
        assert distance <= np.linalg.norm(e) + 1e-9
        largest = max(map(np.linalg.norm, gradients))
        assert seen.bound[1, t + 1] == pytest.approx(
            2 * 2.0 * np.sqrt(1 - least) / least * largest, rel=1e-5)
        assert seen.error[1, t + 1] <= seen.bound[1, t + 1]
    assert seen.norm[1, -1] == pytest.approx(np.linalg.norm(x))


def test_sgd_stays_in_the_span_and_others_have_no_error(courses):
    sgd = courses["SGD"]
    assert sgd.span.max() < 1e-12 and sgd.rank.max() == 2
    assert sgd.solution[:, -1].max() < 1e-3
    assert (sgd.error == 0).all() and (courses["signSGD"].bound == 0).all()
    np.testing.assert_allclose(sgd.solution[:, 0], 1)


def test_sign_sgd_ends_in_a_quarter_of_the_signs_and_so_with_that_test_loss():
    labels = np.repeat([1.0, -1.0], (100, 100))
    train, tx = np.r_[:60, 100:140], eo.sign_sgd(0.005)  # 60 of 100 are 1

    def end(plus):  # of 20 points for testing
        data = _data.Data(labels, train, np.r_[60 : 60 + plus, 140 : 160 - plus])
        return descend(
            tx, lambda x, _: _data.gradient(x, data), jnp.zeros(1200), jnp.zeros(60),
            lambda x, state: (x, _data.losses(x, data)[1]))

    for plus in (8, 10):
        with jax.enable_x64(True):
            x, loss = end(plus)
        np.testing.assert_allclose(x[-1, :4], 0.25, atol=0.006)
        q = plus / 20
        assert float(loss[-1]) == pytest.approx(q / 16 + 25 * (1 - q) / 16, abs=0.02)


def test_tuning_takes_the_least_train_loss_and_no_infinite_one():
    config = Config(points=20, steps=60, tune_repeats=2, grid=(0.05, 0.5, 1e9))
    with jax.enable_x64(True):
        tuned = _runs.tune(_runs.methods(config)["SGD"], config)
    assert tuned.best == 0.5 and tuned.train[2] == np.inf
    assert tuned.train[1] < tuned.train[0] < 1 and tuned.test.shape == (3,)


def test_optimizers_are_the_librarys():
    made = _runs.methods(SMALL)
    assert list(made)[:4] == ["SGD", "signSGD", "SIGNSGDM", "EF-signSGD"]
    g = [jnp.array([1.0, -1.0]), jnp.array([-2.0, 0.5])] * 20
    for name, decays in (("SIGNSGDM", True), (_runs.SUM, False)):
        tx = made[name](1.0)
        assert isinstance(tx, optax.GradientTransformation)
        state = tx.init(g[0])
        for each in [*g, 15 * g[0]]:
            u, state = tx.update(each, state)
        # 15 outweighs what momentum keeps of the past, but not all of it: -20.
        assert u[0] == (-1 if decays else 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--points", "7"], "points must be even and at least 4; got 7"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--grid", "0.1,-1"], "grid must hold positive numbers"),
        (["--grid", ""], "grid must hold positive numbers"),
        (["--beta", "1"], "beta must lie between 0 and 1"),
        (["--times", "0"], "times must be positive"),
        (["--seed", "-1"], "seed must not be negative"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        _cli.main(["least_squares", *options])
    assert message in capsys.readouterr().err

"""The study of the counterexamples: its problems, runs and verdicts."""

import json

import jax
import numpy as np
import pytest

import ef_optax as eo
from experiments import _cli
from experiments.toys.counterexamples import (
    Config,
    _geometry,
    _measured,
    _problems,
    _runs,
    _verdicts,
)

SMALL = Config(
    epsilons=(0.3, 0.5), schedules=("0.1", "1/sqrt(t)"), steps=40, vote_steps=20,
    repeats=3, grid_points=60)
SIGN, SGD, FEEDBACK = (
    _runs.METHODS[name] for name in ("signSGD", "SGD", "EF-signSGD"))


# Problems, against their definitions in NumPy.


@pytest.mark.parametrize("zero", [-1.0, 0.0, 0.5, 1.0])
def test_2_has_these_subgradients_on_its_kinks_too(zero):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(20, 2)), [[1, 1], [2, -2], [0, 0]]])
    others = rng.normal(size=(200, 2)) * 3
    with jax.enable_x64(True):
        for x in points:
            g = np.asarray(_problems.subgradient_2(x, np.full(2, zero), 0.3))
            below = _problems.loss_2(x, 0.3) + (others - x) @ g
            assert (_problems.loss_2(others, 0.3) >= below - 1e-12).all()


def test_3_is_a_sum_of_squares_whose_terms_are_drawn():
    x, epsilon = np.array([0.7, -1.9]), 0.3
    a = np.array([[1 + epsilon, -1 + epsilon], [-1 + epsilon, 1 + epsilon]])
    assert _problems.loss_3(x, epsilon) == pytest.approx(((a @ x) ** 2).sum())
    assert _problems.loss_3(_problems.LEAST, epsilon) == pytest.approx(
        8 * epsilon**2)
    with jax.enable_x64(True):
        for i in (0, 1):
            np.testing.assert_allclose(
                _problems.gradient_3(x, i, epsilon), 2 * (a[i] @ x) * a[i])


@pytest.mark.parametrize("dimension", [2, 5])
def test_problems_of_theorem_i_have_one_pattern_of_signs_and_one_optimum(dimension):
    problem = _problems.linear(dimension, 3 * dimension, seed=4)
    same = np.sign(problem.rows) * problem.signs
    assert (same == same[:, :1]).all() and len(set(same[:, 0])) == 2
    np.testing.assert_allclose(np.linalg.norm(problem.rows, axis=1), 1)
    assert np.linalg.matrix_rank(problem.rows) == dimension
    x, i = problem.start, 1
    z = problem.rows[i] @ (x - problem.best)
    with jax.enable_x64(True):
        for loss, slope in enumerate((z, np.tanh(z))):
            np.testing.assert_allclose(
                _problems.gradient_linear(x, i, problem, loss),
                slope * problem.rows[i], rtol=1e-12)


# Runs.


def test_ef_sign_sgd_on_2_is_algorithm_1():
    # Powers of two, so that x1 = x2 exactly where it is exactly so on paper.
    config = Config(epsilons=(0.25, 0.5), schedules=("0.125", "0.5"), steps=40)
    with jax.enable_x64(True):
        points = _runs.example_2([SIGN, FEEDBACK], config)
    for i, epsilon in enumerate(config.epsilons):
        for j, sizes in enumerate(_runs.rates(config)):
            x, e, sums = np.ones(2), np.zeros(2), [2.0]
            for rate in sizes:
                plus, minus = (1.0 if v >= 0 else -1.0
                               for v in (x[0] + x[1], x[0] - x[1]))
                g = epsilon * plus * np.ones(2) + minus * np.array([1.0, -1.0])
                p = rate * g + e
                step = abs(p).mean() * np.sign(p)
                x, e = x - step, p - step
                sums.append(x.sum())
            np.testing.assert_allclose(points.sums[1, i, j, 0, 0], sums, atol=1e-12)
            assert points.last[1, i, j, 0, 0] == pytest.approx(
                _problems.loss_2(x, epsilon) / (2 * epsilon))
    assert _measured.stuck(points.at(0), config)
    assert not _measured.on_line(points.at(1), config).any()


def test_points_that_are_not_finite_are_left_aside():
    points = np.array([[1, 1], [4, -1], [np.inf, 1], [np.nan, 1]], float)
    seen = _runs.seen(points[None, None], _problems.loss_2, [0.5])
    assert seen.drift[0, 0] == pytest.approx(1 / 4)  # 4 - 1 = 3, of coordinates of 4
    assert seen.least[0, 0] == 1 and seen.last[0, 0] == np.inf


def test_2_with_momentum_is_stuck_only_below_the_limit():
    config = Config(epsilons=(0.5,), schedules=("0.125",), steps=200)
    limit = (1 - 0.6) / (1 + 0.6)  # 1/4
    with jax.enable_x64(True):
        points = _runs.example_2(
            [lambda rate: eo.signum(rate, 0.6)], config,
            epsilons=(limit - 0.01, limit + 0.01))
    assert _measured.on_line(points, config)[0, :, 0, 0, 0].tolist() == [True, False]


def test_3_from_anywhere_on_the_line_and_not_from_elsewhere():
    starts = _runs.anywhere(SMALL)
    np.testing.assert_allclose(starts.sum(1), 2)
    with jax.enable_x64(True):
        points = _runs.example_3([SIGN, SIGN, SGD], SMALL, [starts, (1.5, 1), (1, 1)])
    assert points.drift.shape == (3, 2, 2, 3)
    assert _measured.stuck(points.at(0), SMALL)
    assert not _measured.stuck(points.at(1), SMALL)
    assert not _measured.stuck(points.at(2), SMALL)
    np.testing.assert_allclose(points.sums[0, ..., 0], 2)
    np.testing.assert_allclose(  # every repeat from a start of its own
        points.losses[0, 1, 0, :, 0],
        _problems.loss_3(starts, 0.5) / _problems.loss_3(_problems.LEAST, 0.5))


def test_votes_hang_on_ties():
    with jax.enable_x64(True):
        points = _runs.votes(SMALL, workers=2)
    kept = _measured.on_line(points, SMALL)[:, 0]
    assert kept[0].all() and not kept[1].any() and not kept[2].any()


def test_theorem_i_sees_what_leaves_the_line():
    with jax.enable_x64(True):
        away = _runs.theorem_1([SIGN, SGD], SMALL, 3)
    assert away.across[0].max() < 1e-12 and away.across[1].min() > 0.01
    assert (away.distance[0].min(-1) >= away.floor[0] - 1e-12).all()
    problem = _problems.linear(3, 9, seed=1)
    apart = problem.best - problem.start
    nearest = apart - (apart @ problem.signs) / 3 * problem.signs
    assert away.floor[0, 0, 0, 1] == pytest.approx(
        np.linalg.norm(nearest) / np.linalg.norm(apart))


def test_geometry():
    with jax.enable_x64(True):
        line = _geometry.figure_1(SMALL)
        cones = _geometry.cones(SMALL)
    assert line.signs == line.points == 60 and line.error < 1e-12
    for epsilon, cone in cones.items():
        assert (cone.most, cone.outside, cone.nearer) == (0.5, 1, 1)
        # Twice the angle between the axis and |x1 - x2| = eps |x1 + x2|, roughly.
        assert abs(cone.inside - 4 * np.arctan(epsilon) / np.pi / 2) < 0.15


# Verdicts.


def test_a_method_that_leaves_the_line_is_not_called_stuck():
    with jax.enable_x64(True):
        points = _runs.example_2([SIGN, SGD], SMALL)
    sign, sgd = (_measured.plain(points.at(i)) for i in (0, 1))
    assert _measured.stuck(sign, SMALL) and not _measured.stuck(sgd, SMALL)
    assert "changes by at most" in _verdicts._drift(sign, sgd)
    assert _verdicts._otherwise(False, "fine") == _verdicts.PROOF
    # The best schedule is that whose worst repeat is best.
    last = np.array([[[0.5, 0.1], [0.3, 0.2]]])
    assert _measured.best(sign._replace(last=last)).tolist() == [0.3]


def test_claims_have_their_numbers_before_the_run():
    from experiments._claims import claims_of

    claims = {claim.key: claim for claim in claims_of(Config(tolerance=1e-7))}
    assert "within 1e-07" in claims["example_2"].criterion
    assert json.dumps([claim._asdict() for claim in claims.values()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epsilons", "0.5,1.0"], "epsilons must lie between 0 and 1"),
        (["--epsilon", "0.4"], "epsilon must be one of epsilons"),
        (["--momentum-epsilons", ""], "momentum_epsilons must lie between"),
        (["--fixed", "2"], "fixed must lie between 0 and 1"),
        (["--betas", "1.0"], "betas must lie between"),
        (["--beta", "0.8"], "beta must be one of betas"),
        (["--workers", "0,2"], "workers must be at least 1"),
        (["--dimensions", "1"], "dimensions must be at least 2"),
        (["--schedules", "1,linear"], "got 'linear'"),
        (["--schedules", ""], "schedules must not be empty"),
        (["--steps", "0"], "steps must be at least 1; got 0"),
        (["--tolerance", "0"], "tolerance must be positive"),
        (["--seed", "-1"], "seed must not be negative; got -1"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        _cli.main(["counterexamples", *options])
    assert message in capsys.readouterr().err

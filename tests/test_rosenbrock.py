"""The study of the Rosenbrock function: exact probabilities, descents, verdicts."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

from experiments import _cli
from experiments.toys import rosenbrock
from experiments.toys.rosenbrock import _looks, _problem, _runs, _votes

SMALL = {
    "dimension": 4, "steps": 200, "repetitions": 3, "vote_repetitions": 2,
    "sweep_repetitions": 1, "every": 20, "draws": 20, "points": 2, "vote_draws": 200,
    "pairs": (1, 2), "sweep_noises": (1.0,), "sweep_starts": ("zeros",),
    "sweep_steps": (40, 200),
}


def derivative(x, summand, coordinate):
    """Of 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2 for i = summand, in float64."""
    rest = x[summand + 1] - x[summand] ** 2
    if coordinate == summand:
        return -400 * x[summand] * rest - 2 * (1 - x[summand])
    return 200 * rest if coordinate == summand + 1 else 0.0


def exact_rho(x, batch, noise):
    """By enumerating all mini-batches, (d-1)^batch of them."""
    d = len(x)
    table = np.array([
        [derivative(x, i, j) for j in range(d)] for i in range(d - 1)])
    side = np.sign(table.sum(axis=0))
    total = np.zeros(d)
    for drawn in itertools.product(range(d - 1), repeat=batch):
        mean = table[list(drawn)].mean(axis=0)
        z = side * mean / (noise / math.sqrt(batch))
        total += [0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z]
    return total / (d - 1) ** batch


def excess_of(x, batch, noise):
    setting = _runs.Setting(0.1, 0.0, batch, noise, "zeros")
    excess, _ = _looks.looks(np.float32(x)[None, None], setting, most=5)
    return excess[0, 0]


# The problem.


def test_gradient_is_that_of_the_function():
    x = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    auto = jax.grad(_problem.value)(x)
    np.testing.assert_allclose(_problem.gradient(x), auto, rtol=1e-5, atol=1e-3)
    by_hand = [sum(derivative(np.float64(x), i, j) for i in range(5)) for j in range(6)]
    np.testing.assert_allclose(auto, by_hand, rtol=1e-5, atol=1e-3)
    assert _problem.value(np.ones(6, np.float32)) == 0


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("noise", [0.5, 30.0, 500.0])
def test_success_probabilities_are_exact(batch, noise):
    rng = np.random.default_rng(batch)
    for _ in range(3):
        x = np.float64(np.float32(rng.standard_normal(5)))
        np.testing.assert_allclose(
            0.5 + 0.5 * excess_of(x, batch, noise), exact_rho(x, batch, noise),
            atol=2e-6)


@pytest.mark.parametrize(("batch", "noise"), [(1, 5.0), (3, 80.0)])
def test_success_probabilities_are_those_of_the_gradients_drawn(batch, noise):
    draws = 40_000
    x = np.random.default_rng(3).standard_normal(6).astype(np.float32)
    drawn = _problem.draw((7,), (draws,), 5, 6)
    samples = jax.vmap(
        lambda one: _problem.stochastic_gradient(x, one, batch, noise))(drawn)
    g = np.asarray(_problem.gradient(x))
    rho = 0.5 + 0.5 * excess_of(x, batch, noise)
    found = (np.sign(samples) == np.sign(g)).mean(axis=0)
    error = np.sqrt(rho * (1 - rho) / draws) + 1e-4
    assert np.all(np.abs(found - rho) < 4.5 * error)
    # Biased by 1/(d-1), as the paper says.
    spread = np.std(samples, axis=0) / math.sqrt(draws)
    assert np.all(np.abs(np.mean(samples, axis=0) - g / 5) < 4.5 * spread)


def test_the_assumption_of_the_paper_cannot_be_violated():
    rng = np.random.default_rng(5)
    points = rng.standard_normal((1, 2000, 7)) * 10 ** rng.uniform(-2, 2, (1, 2000, 1))
    for batch, noise in itertools.product((1, 2, 5), (1e-3, 1.0, 1e4)):
        setting = _runs.Setting(0.1, 0.0, batch, noise, "zeros")
        excess, _ = _looks.looks(points.astype(np.float32), setting, most=5)
        assert excess.min() > -3e-6
        ends, between = _problem.greatest_success(batch, 7)
        rho = 0.5 + 0.5 * excess
        assert rho[..., [0, -1]].max() <= ends + 1e-6
        assert rho[..., 1:-1].max() <= between + 1e-6


def test_chances_of_pairs_add_up():
    for batch, d in itertools.product((1, 3, 8), (3, 10)):
        n, m, chance = _problem.hit_chances(batch, 8, d)
        assert abs(chance.sum() - 1) < 1e-12
        assert abs((n * chance).sum() - batch / (d - 1)) < 1e-12
        assert chance[n + m > batch].max(initial=0) == 0


def test_smoothness_bounds_the_hessian_in_its_box():
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.uniform(-2, 2, (2, 5)), axis=0)
    constants = _problem.smoothness(low, high)
    hessian = jax.jit(jax.hessian(_problem.value))
    for _ in range(50):
        x = rng.uniform(low, high).astype(np.float32)
        left = np.diag(constants) - np.float64(hessian(x))
        assert np.linalg.eigvalsh(left).min() > -1e-2


# Descents.


def test_descents_follow_the_algorithms():
    settings = [_runs.Setting(0.25, 0.0, 1, 2.0, "standard"),
                _runs.Setting(0.25, 0.5, 3, 2.0, "zeros")]
    runs = {o: _runs.descents(settings, 4, 6, 2, seed=9, option=o) for o in (1, 2)}
    which, normal = _problem.draw((9, 1), (2, 6), 3, 4)
    for option, (s, setting), r in itertools.product(
        (1, 2), enumerate(settings), (0, 1)
    ):
        if option == 2 and setting.power:
            continue  # a schedule counts the steps taken only
        x = np.float64(_problem.start(setting.start, 4))
        for k in range(6):
            np.testing.assert_allclose(runs[option][s, r, k], x, atol=1e-5)
            g = np.mean([
                [derivative(x, i, j) for j in range(4)]
                for i in which[r, k, : setting.batch]], axis=0)
            g += setting.noise / math.sqrt(setting.batch) * normal[r, k]
            new = x - 0.25 / (k + 1) ** setting.power * np.sign(g)
            if option == 1 or _problem.value(new) < _problem.value(x):
                x = new


def test_idle_workers_do_not_vote():
    setting = _runs.Setting(0.1, 0.0, 1, 1.0, "zeros")
    values = _votes.votes([setting], [1, 2, 5], 4, 30, 2, seed=3)
    which, normal = _problem.draw((3, 3), (2, 5, 30), 1, 4)
    for w, workers in enumerate((1, 2, 5)):
        x = np.zeros(4)
        for k in range(30):
            np.testing.assert_allclose(
                values[0, w, 1, k], _problem.value(x.astype(np.float32)), rtol=1e-3)
            signs = [
                np.sign([derivative(x, which[1, m, k, 0], j) for j in range(4)]
                        + normal[1, m, k]) for m in range(workers)]
            x -= 0.1 * np.sign(np.sum(signs, axis=0))


def test_slopes_of_powers():
    k = np.arange(1001)
    found = _runs.slopes(np.maximum(k, 1.0)[None] ** 1.5 * np.ones((20, 1)))
    np.testing.assert_allclose(found, [1.5, 1.5], atol=0.02)
    np.testing.assert_allclose(_runs.slopes(np.zeros((3, 1001))), [0.0], atol=1e-9)


# The study.


def test_the_study_writes_every_verdict_and_figure(tmp_path, capsys):
    config = rosenbrock.Config(**SMALL, results=str(tmp_path))
    outcome = rosenbrock.run(config)
    assert capsys.readouterr().err == ""
    folder = tmp_path / "rosenbrock"
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert verdicts["fig2_spb"]["verdict"] == "not reproduced"
    assert verdicts["theorem2"]["verdict"] == "reproduced"
    assert verdicts["expected_sign"]["verdict"] == "reproduced"
    assert {p.name for p in folder.glob("*.png")} == {
        "figure.png", "figure_decreasing.png", "figure_step_sizes.png",
        "figure_workers.png"}
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").open()]
    assert len(lines) == 4 * 4 + 2 * 4 + 1
    # The same setting is in two figures, and is the same run.
    np.testing.assert_array_equal(
        outcome.batches[1].values, outcome.step_sizes[0].values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dimension", "2"], "dimension must be at least 3; got 2"),
        (["--start", "ones"], "some of standard, zeros, twos; got ones"),
        (["--noise", "0"], "noise must be positive"),
        (["--noise", "nan"], "noise must be positive"),
        (["--batches", "2,1"], "batches must rise; got (2, 1)"),
        (["--batches", "1"], "must be at least two each"),
        (["--step-sizes", "0.1,0.2,0.3,0.4"], "step_sizes must fall"),
        (["--step-sizes", "0.1"], "step_sizes must be four"),
        (["--pairs", "0,1"], "pairs must be at least 1"),
        (["--steps", "10"], "steps must be at least 20"),
        (["--seed", "-1"], "seed must not be negative"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        _cli.parse(rosenbrock.Config, options, "rosenbrock")
    assert message in capsys.readouterr().err

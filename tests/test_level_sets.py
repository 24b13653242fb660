"""The study of the l^{1,2} norm: shapes of its level sets, and its inequalities."""

import json

import numpy as np
import pytest

from experiments import _cli
from experiments.toys import level_sets
from experiments.toys.level_sets import _shapes


def test_the_study_sees_a_circle_near_0_and_a_diamond_far_away(tmp_path):
    config = level_sets.Config(
        directions=73, samples=500, results=str(tmp_path))
    shapes = level_sets.run(config)
    verdicts = json.loads((tmp_path / "level_sets/verdicts.json").read_text())
    failed = [key for key, v in verdicts.items() if v["verdict"] != "reproduced"]
    assert failed == ["equivalences_printed"]  # and that one is wrong in the paper
    assert len(shapes["sets"]) == len(shapes["balls"]) == 4
    assert (tmp_path / "level_sets/figure_unit_balls.png").exists()


@pytest.mark.parametrize("sigma", [0.0, 0.3, 20.0])
@pytest.mark.parametrize("level", [1e-3, 1.0, 50.0])
def test_radii_solve_the_quadratic_equations(level, sigma):
    noise = 3**0.5 * sigma
    # On the axis r^2 / (r + noise) = level; on the diagonal 2 u^2 / (u + noise).
    on_axis = (level + np.sqrt(level**2 + 4 * level * noise)) / 2
    half = level / 2
    on_diagonal = (half + np.sqrt(half**2 + 4 * half * noise)) / 2 * 2**0.5
    found = _shapes.radii(
        np.float32(level), np.float32(sigma), np.array([0, np.pi / 4, 5 * np.pi / 4]))
    np.testing.assert_allclose(
        found, [on_axis, on_diagonal, on_diagonal], rtol=2e-6)


def test_shapes_are_told_apart():
    ball = _shapes.measure(1.0, 0.0, 361)
    assert ball.diamond < 1e-6 and abs(ball.circle - (1 - 0.5**0.5)) < 1e-4
    near = _shapes.measure(_shapes.level_at(1e-3, 1.0), 1.0, 361)
    assert near.circle < 1e-3 and abs(near.diamond - (2**0.5 - 1)) < 1e-3


def test_the_inequalities_need_the_noise_to_be_as_large_as_its_bound():
    config = level_sets.Config(samples=200)
    exact, printed, where = _shapes.worst_ratios(config)
    assert max(exact) <= 1 + 1e-5
    assert max(printed[0], printed[2]) <= 1 + 1e-5  # the lower bounds
    assert min(printed[1], printed[3]) > 1  # the upper ones
    assert "sigma" in where
    # By hand: without noise the norm is |g|_1, far above |g|_2^2 / (sqrt(3) c').
    ratios = _shapes._ratios(np.float32([[0.01, 0.01]]), np.float32([[0, 0]]), 1.0, 1.0)
    np.testing.assert_allclose(ratios[1], 0.02 / (0.0002 / 3**0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sigma", "0"], "sigma must be positive; got 0.0"),
        (["--scales", "1,0.5"], "scales must rise"),
        (["--scales", "0,1"], "from above 0"),
        (["--noises", "0.1,1"], "noises must begin with 0"),
        (["--directions", "3"], "directions must be at least 9"),
        (["--constants", "0"], "constants must be positive"),
        (["--seed", "-1"], "seed must not be negative"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        _cli.parse(level_sets.Config, options, "level_sets")
    assert message in capsys.readouterr().err

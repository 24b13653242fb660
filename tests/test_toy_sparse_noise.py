"""The study of sparse noise: its runs, against NumPy, and its levels."""

import numpy as np
import pytest

from experiments import _cli
from experiments.toys.sparse_noise import METHODS, Config, _config, _report
from experiments.toys.sparse_noise import drawn as draw
from experiments.toys.sparse_noise import losses as run_losses

CONFIG = Config(dimension=6, repeats=3, steps=20, long=30, soon=10, early=5)
RATE = 0.01


def sgd(g, e):
    return RATE * g, e


def sign(g, e):
    return RATE * np.sign(g), e


def scaled(g, e):
    return RATE * abs(g).mean() * np.sign(g), e


def feedback(g, e):
    p = RATE * g + e
    step = abs(p).mean() * np.sign(p)
    return step, p - step


@pytest.mark.parametrize(
    ("name", "oracle"),
    list(zip(METHODS, (sgd, sign, scaled, feedback), strict=True)), ids=list(METHODS))
def test_losses_are_those_of_the_algorithms(name, oracle):
    start, noise = draw(CONFIG)
    rates = np.stack([np.full(30, 1e-5), np.full(30, RATE)])
    seen = run_losses(METHODS[name], rates, start, noise)
    assert seen.shape == (2, 3, 31)
    for repeat in range(3):
        x, e = start[repeat].astype(float), np.zeros(6)
        expected = [x @ x / 2]
        for z in noise[repeat]:
            step, e = oracle(x + np.r_[z, np.zeros(5)], e)
            x = x - step
            expected.append(x @ x / 2)
        np.testing.assert_allclose(seen[1, repeat], expected, rtol=1e-4)


def test_noise_is_in_one_coordinate_and_start_is_gaussian():
    config = Config(repeats=50, long=2000)
    start, noise = draw(config)
    assert start.shape == (50, 100) and noise.shape == (50, 2000)
    assert abs(start.std() - 1) < 0.05 and abs(noise.std() / 100 - 1) < 0.05
    np.testing.assert_array_equal(noise, draw(config)[1])


def test_levels_are_means_of_the_last_tenth():
    values = np.r_[np.zeros(90), np.full(10, 3.0)]
    np.testing.assert_array_equal(
        _report.level(np.stack([values, np.full(100, np.nan)])), [3, np.inf])


def test_the_papers_rates_are_the_defaults():
    assert Config().rates == {
        "SGD": 0.001, "EF-signSGD": 0.001, "signSGD": 0.01, "scaled signSGD": 0.01}
    assert Config().decreasing == {
        "SGD": 0.01, "EF-signSGD": 0.01, "signSGD": 0.1, "scaled signSGD": 0.1}
    assert tuple(METHODS) == _config.METHODS
    assert {*_config.SLOW, *_config.FAST} == set(METHODS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dimension", "1"], "dimension must be at least 2; got 1"),
        (["--repeats", "1"], "repeats must be at least 2"),
        (["--steps", "5"], "steps must be at least 10"),
        (["--long", "10"], "long must be at least steps, 1000; got 10"),
        (["--soon", "2000"], "soon must be a step from 0 to 1000; got 2000"),
        (["--noise", "0"], "noise must be positive"),
        (["--rates", "SGD=0.1"], "rates must be positive, for SGD, signSGD"),
        (["--grid", ""], "grid must hold positive numbers"),
        (["--seed", "-1"], "seed must be at least 0"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        _cli.main(["sparse_noise", *options])
    assert message in capsys.readouterr().err

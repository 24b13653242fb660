"""The study of error feedback: NumPy oracles of its runs, bounds and vectors."""

import json
import math

import numpy as np
import pytest

import ef_optax as eo
from experiments import _cli, error_feedback
from experiments._results import Results
from experiments.error_feedback import Config, _runs, _vectors, _verdicts

SMALL = {"steps": 300, "vectors": 40, "dimension": 200, "seeds": 4,
         "horizons": (300, 3000), "slope": -0.2}  # so early it is still flat


@pytest.fixture(scope="module")
def found():
    return error_feedback.measure(Config(**SMALL))


def test_all_claims_hold_at_small_size(found, tmp_path, monkeypatch):
    monkeypatch.setattr(error_feedback, "measure", lambda config: found)
    error_feedback.run(Config(results=str(tmp_path), **SMALL))
    path = tmp_path / "error_feedback/verdicts.json"
    verdicts = json.loads(path.read_text())
    assert {v["verdict"] for v in verdicts.values()} == {"reproduced"}
    gaps = {label: run.gap.max() for label, run in found.algorithms.items()}
    assert gaps["EF-signSGD"] < 1e-5 < 0.01 < gaps["scaled signSGD"]
    assert gaps["SGD"] < 1e-5
    assert found.top1["SGD"][0].changed == 20
    assert (tmp_path / "error_feedback/figure.png").stat().st_size < 600_000


def lines(config, compress, rate, steps):
    """Algorithm 2 as printed, in float64, from the first seed."""
    problem = _runs.problem_of(config)
    x, e, total = problem.x_0[0].astype(np.float64), 0.0, 0.0
    for i in problem.drawn[0, :steps]:
        row = problem.a[i].astype(np.float64)
        total = total + x
        p = rate * np.sign((row * x).sum()) * row + e
        delta = compress(p)
        x, e = x - delta, p - delta
    return x, np.abs((problem.a * (total / steps)).sum(axis=(1, 2))).mean()


def top(k):
    return lambda p: np.where(np.abs(p) >= np.sort(np.abs(p).ravel())[-k], p, 0.0)


@pytest.mark.parametrize(
    ("optimizer", "compress"),
    [
        (eo.ef_sign_sgd(0.05), lambda p: np.abs(p).mean() * np.sign(p)),
        (eo.ef_sgd(0.05, eo.top_k(k=2)), top(2)),
        (eo.ef_sgd(0.05, eo.identity()), lambda p: p),
    ],
    ids=["scaled sign", "top-2", "identity"],
)
def test_runs_are_the_papers_lines(optimizer, compress):
    config = Config(steps=60, seeds=2)
    traced = _runs.trace(_runs.problem_of(config), optimizer, 0.05, 60)
    x, _ = lines(config, compress, 0.05, 60)
    np.testing.assert_allclose(traced.last[0], x, atol=1e-5)


def test_the_mean_has_the_first_iterate_and_that_at_the_horizon():
    config = Config(steps=60, seeds=2, horizons=(30, 59))
    problem = _runs.problem_of(config)
    reached = _runs.reach(
        problem, lambda rate: eo.ef_sgd(rate, eo.top_k(k=1)),
        [0.02, 0.05], config.horizons)
    for (value, most), rate, horizon in zip(
        reached, [0.02, 0.05], config.horizons, strict=True
    ):
        _, expected = lines(config, top(1), rate, horizon + 1)
        np.testing.assert_allclose(value[0], expected, rtol=1e-4)
        assert most == 1


@pytest.mark.parametrize("delta", [1.0, 0.5, 0.05])
def test_the_bound_is_the_least_over_step_sizes(delta):
    rate, bound = _runs.theorem_iii(1.3, 999, delta)
    rates = rate * np.geomspace(0.5, 2, 401)
    bounds = 1 / (2 * rates * 1000) + rates * 1.3**2 * (
        0.5 + 2 * math.sqrt(1 - delta) / delta)
    np.testing.assert_allclose(bounds.min(), bound, rtol=1e-5)
    np.testing.assert_allclose(rates[bounds.argmin()], rate, rtol=1e-5)


def test_stochastic_gradients_have_the_second_moment_of_the_bound():
    problem = _runs.problem_of(Config())
    x = np.ones((4, 5), np.float32)
    squares = [float((_runs.gradient(problem.a, x, i) ** 2).sum())
               for i in range(len(problem.a))]
    np.testing.assert_allclose(np.mean(squares), problem.sigma**2, rtol=1e-5)
    np.testing.assert_allclose((problem.x_0**2).sum(axis=(1, 2)), 1, rtol=1e-5)


def test_losses_are_those_of_the_definitions():
    config = Config(**SMALL)
    lost = _vectors.losses(config)
    for kind, v in _vectors.vectors_of(config).items():
        norm, size = (v**2).sum(axis=1), v.shape[1]
        scale = np.abs(v).sum(axis=1, keepdims=True) / size
        with_one = scale * np.where(v >= 0, 1, -1)
        expected = {
            "density": np.abs(v).sum(axis=1) ** 2 / (size * norm),
            "sign": ((with_one - v) ** 2).sum(axis=1) / norm,
            "sign with zero": ((scale * np.sign(v) - v) ** 2).sum(axis=1) / norm,
            "top-1": 1 - np.abs(v).max(axis=1) ** 2 / norm,
        }
        for name, values in expected.items():
            np.testing.assert_allclose(
                lost[kind][name], values, atol=2e-6, err_msg=f"{kind}, {name}")


@pytest.mark.parametrize(
    ("key", "changes"),
    [("algorithm_1", {"tolerance": 1e-9}), ("algorithm_1", {"apart": 1e3}),
     ("algorithm_2", {"tolerance": 1e-9}), ("lemma_8", {"exact": 1e-12}),
     ("lemma_8_density", {"dense": 0.7}), ("remark_7", {"slope": -2.0})],
)
def test_criteria_can_fail(key, changes, found, tmp_path):
    config = Config(**SMALL | changes, results=str(tmp_path))
    judged = list(_verdicts.verdicts(config, found))
    assert not {name: holds for name, holds, *_ in judged}[key]
    # A verdict of each claim can be recorded, whatever came out.
    results = Results(tmp_path, "error_feedback", config)
    for verdict in judged:
        results.verdict(*verdict)
    assert results.judged.keys() == results.claims.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shape", "4"], "two sizes of at least 2; got (4,)"),
        (["--shape", "1,5"], "two sizes of at least 2"),
        (["--kept", "21"], "kept must be at most 20"),
        (["--rank", "5"], "rank at most 4"),
        (["--seeds", "0"], "seeds must be at least 1; got 0"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--horizons", "5"], "at least two"),
        (["--horizons", "0,5"], "of at least 1; got (0, 5)"),
        (["--learning-rate", "0"], "must be positive; got 0"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        _cli.main(["error_feedback", *options])
    assert message in capsys.readouterr().err

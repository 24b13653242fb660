"""The grid of learning rates and weight decays: traced pairs, winners, verdicts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_tools import quick_compilation  # noqa: F401
from scipy.stats import spearmanr

from experiments import _cli
from experiments.cifar import _grid_claims, grid
from experiments.cifar._algorithms import algorithm

TINY = ["--dataset", "synthetic", "--model", "resnet4_tiny", "--epochs", "1",
        "--train-images", "24", "--validation", "8", "--test-images", "8",
        "--batch-size", "8", "--algorithms", "sgdm", "--learning-rates", "0.1,0.001",
        "--weight-decays", "0.001", "--test-epochs", "2", "--seeds", "1,2"]


def configured(*options):
    return _cli.parse(grid.Config, options, "cifar_grid")


# Pairs of learning rate and weight decay.


@pytest.mark.parametrize("name", ["sgdm", "signum", "adam"])
def test_a_pair_is_the_algorithm_with_that_weight_decay(name):
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=6), jnp.float32)
    make = grid.of_pair(name)

    @jax.jit
    def step(pair, state, grads):
        return make(pair, None).update(grads, state, params)

    tx = algorithm(name, 0.3)(0.02, None)
    state, expected_state = make(0.0, None).init(params), tx.init(params)
    for _ in range(3):
        grads = jnp.asarray(rng.normal(size=6), jnp.float32)
        got, state = step(np.array([0.02, 0.3], np.float32), state, grads)
        expected, expected_state = tx.update(grads, expected_state, params)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    plain, _ = step(np.array([0.02, 0.0], np.float32), state, grads)
    assert not np.allclose(plain, got)


def test_only_the_learning_rate_falls_at_drops():
    config = grid.Config()
    plan = config.recipe().plan(32, 1.0, 1)._replace(learning_rate=0.5)
    pairs = [grid.decayed(plan, 0.01).rate(epoch) for epoch in range(4)]
    np.testing.assert_allclose(
        pairs, [[0.5, 0.01], [0.5, 0.01], [0.05, 0.01], [0.005, 0.01]], rtol=1e-6
    )
    assert grid.decayed(plan, 0.01).batches(0, 64).shape == (2, 32)


# Verdicts.

GOOD = {
    # Rates down, weight decays across.
    "sgdm": [[10, 12], [15, 20], [44, 45], [46, 47], [12, 10]],
    "signum": [[30, 31], [45, 40], [41, 38], [33, 12], [10, 10]],
    "adam": [[31, 33], [46, 39], [40, 38], [32, 11], [10, 10]],
}
TESTS = {"sgdm": [50, 51], "signum": [49, 49], "adam": [50, 52]}


def verdicts(maps=GOOD, tests=TESTS, **changes):
    arrays = {name: np.array(m, float) for name, m in maps.items()}
    return _grid_claims.judged(grid.Config(**changes), arrays, tests, 10.0)


def test_verdicts_follow_their_criteria():
    good = verdicts()
    assert all(holds and not why for holds, _, why in good.values())
    assert good["region"][1] == (
        "of 10 configurations: SGDm 4, signSGDm 1, Adam 1")
    assert good["stable"][1] == "of 5 learning rates: SGDm 2, signSGDm 4, Adam 4"
    # SGD and Adam change places.
    bad = verdicts(
        {"sgdm": GOOD["adam"], "signum": GOOD["signum"], "adam": GOOD["sgdm"]},
        {**TESTS, "signum": [40, 42]},
    )
    assert not any(holds for holds, _, _ in bad.values())
    assert all(why for _, _, why in bad.values())
    assert "signSGDm is behind" in bad["winners"][2]
    assert not any(holds for holds, _, _ in verdicts({"sgdm": GOOD["sgdm"]}).values())


def test_rank_correlation_is_spearmans():
    one, other = np.random.default_rng(0).integers(0, 5, (2, 4, 3))
    found = _grid_claims.rank_correlation(one, other)
    assert found == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert _grid_claims.rank_correlation(one, np.ones((4, 3))) == 0


def test_a_training_that_diverged_counts_as_guessing():
    assert grid.last_accuracy({"test_accuracy": [30.0, None], "guessing": 10.0}) == 10
    assert grid.last_accuracy({"test_accuracy": [None, 30.0], "guessing": 10.0}) == 30


# Runs.


def test_parts_share_the_grid_and_the_winner_is_tested(tmp_path, capsys):
    results = ["--results", str(tmp_path)]
    assert _cli.main(["cifar_grid", *TINY, *results, "--part", "1/2"]) == 2
    assert "1 of 2 jobs are not done here" in capsys.readouterr().err
    path = tmp_path / "cifar_grid/metrics.jsonl"
    first = path.read_text()
    winners = grid.run(configured(*TINY, *results))
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert text.startswith(first)
    assert [(x["stage"], x["learning_rate"], x["seed"]) for x in lines[:2]] == [
        ("grid", 0.001, 11), ("grid", 0.1, 11)]
    best = max(reversed(lines[:2]), key=lambda x: x["test_accuracy"][-1])
    assert winners["sgdm"].learning_rate == best["learning_rate"]
    assert [(x["stage"], x["seed"], len(x["test_accuracy"])) for x in lines[2:]] == [
        ("test", 1, 2), ("test", 2, 2)]
    assert all(x["learning_rate"] == best["learning_rate"] for x in lines[2:])
    assert (tmp_path / "cifar_grid/figure_winners.png").exists()
    assert grid.run(configured(*TINY, *results)) == winners
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rates", "0.1,0"], "learning_rates must be positive"),
        (["--weight-decays", "-1"], "weight_decays must not be negative"),
        (["--weight-decays", ""], "weight_decays must not be negative"),
        (["--seed", "1"], "nor among seeds; got 1"),
        (["--validation", "0"], "validation must be positive; got 0"),
        (["--algorithms", "sgdm,sgd"], "got sgd"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        configured(*options)
    assert message in capsys.readouterr().err


def test_held_out_images_must_leave_some(tmp_path, capsys):
    command = ["cifar_grid", *TINY, "--validation", "24", "--results", str(tmp_path)]
    assert _cli.main(command) == 2
    assert "from 1 to 23 of the 24" in capsys.readouterr().err

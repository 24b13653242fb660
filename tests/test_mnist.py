"""The study of MNIST, on scikit-learn's digits: its maths, its verdicts, a run."""

import dataclasses
import itertools
import json
from typing import NamedTuple

import jax
import numpy as np
import pytest
from contract_tools import quick_compilation  # noqa: F401

from experiments import _cli, data
from experiments._registry import StudyError
from experiments.mnist import Config, _study
from experiments.mnist._batches import draw
from experiments.mnist._config import Cell
from experiments.mnist._gradients import shape_of, share_apart, share_bimodal
from experiments.mnist._runs import Run
from experiments.mnist._sampling import Sampled, Swept
from experiments.mnist._training import Trainer
from experiments.mnist._tuning import Tuned, end, tune
from experiments.mnist._verdicts import judge


@pytest.fixture(scope="module")
def digits():
    return data.standardize(data.load("digits", None, split_seed=0))


# Batches.


def test_standard_batches_go_through_all_examples_in_a_new_order_each_epoch():
    labels = np.arange(103) % 10
    orders, part = draw("standard", labels, 10, 25, seed=3)
    assert orders.shape == (25, 10) and not part.any()
    epochs = [orders[:10].ravel(), orders[10:20].ravel()]
    for epoch in epochs:
        assert len(set(epoch)) == 100 and set(epoch) <= set(range(103))
    assert (epochs[0] != epochs[1]).any()
    np.testing.assert_array_equal(orders, draw("standard", labels, 10, 25, 3)[0])
    assert (orders != draw("standard", labels, 10, 25, seed=4)[0]).any()


def test_a_split_batch_has_digits_of_one_part_either_as_often():
    labels = np.random.default_rng(0).integers(0, 10, 500)
    orders, part = draw("split", labels, 8, 2000, seed=1)
    assert ((labels[orders] >= 5) == part[:, None]).all()
    assert abs(part.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    # Every example of a part as often as any other.
    counts = np.bincount(orders[part == 1].ravel(), minlength=500)[labels >= 5]
    assert abs(counts / counts.mean() - 1).max() < 0.7 and counts.min() > 0


# Training.


def numpy_steps(params, x, y, orders, rate, method):
    """Trains in float64; returns weights and biases of both layers."""
    layers = params["params"]
    w1, b1, w2, b2 = (
        np.float64(layers[layer][kind])
        for layer in ("Dense_0", "Dense_1") for kind in ("kernel", "bias")
    )
    for batch in orders:
        a, target = x[batch].astype(np.float64), np.eye(10)[y[batch]]
        hidden = np.maximum(a @ w1 + b1, 0)
        logits = hidden @ w2 + b2
        p = np.exp(logits - logits.max(1, keepdims=True))
        out = (p / p.sum(1, keepdims=True) - target) / len(batch)
        back = (out @ w2.T) * (hidden > 0)
        grads = a.T @ back, back.sum(0), hidden.T @ out, out.sum(0)
        if method == "signSGD":
            grads = [np.sign(g) for g in grads]
        w1, b1, w2, b2 = (
            w - rate * g for w, g in zip((w1, b1, w2, b2), grads, strict=True)
        )
    return w1, b1, w2, b2


@pytest.mark.parametrize(
    ("batches", "method", "rates"),
    [("standard", "SGD", (0.1, 0.5)), ("split", "signSGD", (1e-3, 1e-2))],
)
def test_every_rate_trains_as_in_numpy(batches, method, rates, digits, monkeypatch):
    monkeypatch.setattr("experiments.mnist._training.CHUNK", 4)
    trainer = Trainer(Config(widths=(6,)), digits)
    cell = Cell(batches, 6, 32, method)
    seen = dict(trainer.train(cell, rates, [3, 9], seed=5))
    orders, _ = draw(batches, digits.y_train, 32, 9, seed=5)
    start = trainer.tasks[6].init(5)
    for stop, params in seen.items():
        for number, rate in enumerate(rates):
            layers = params["params"]
            ours = [layers[layer][kind][number] for layer in ("Dense_0", "Dense_1")
                    for kind in ("kernel", "bias")]
            theirs = numpy_steps(
                start, digits.x_train, digits.y_train, orders[:stop], rate, method
            )
            for mine, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5)
    train, test = (trainer.score(6, params, part) for part in ("train", "test"))
    logits = np.maximum(digits.x_test @ ours[0] + ours[1], 0) @ ours[2] + ours[3]
    accuracy = 100 * (logits.argmax(1) == digits.y_test).mean()
    assert abs(test.accuracy[-1] - accuracy) < 1e-3 and train.loss.shape == (2,)


def test_a_step_of_sgd_sends_32_times_as_much(digits):
    trainer = Trainer(Config(widths=(4,)), digits)
    sgd, sign = (Cell("standard", 4, 100, method) for method in ("SGD", "signSGD"))
    assert trainer.tasks[4].parameters == 64 * 4 + 4 + 4 * 10 + 10
    assert trainer.steps(sgd, 310 * 4 * 7 / 1e6 + 1e-9) == 7
    assert trainer.steps(sign, 310 * 4 * 7 / 1e6 + 1e-9) == 7 * 32
    assert trainer.megabytes(sign, np.array(8)) == 310 / 1e6
    assert trainer.epoch(3, batch_size=100) == 2 * 14
    with pytest.raises(StudyError, match="one gradient"):
        trainer.steps(sgd, 0.001)
    with pytest.raises(StudyError, match=r"1438.*2000"):
        next(trainer.train(Cell("standard", 4, 2000, "SGD"), (1.0,), [1], 0))


def test_gradients_are_those_of_the_biases(digits):
    trainer = Trainer(Config(widths=(5,)), digits)
    task = trainer.tasks[5]
    params, cell = task.init(0), Cell("split", 5, 16, "signSGD")
    sampled, part = trainer.gradients(cell, params, "split", 3, seed=2)
    gradient = jax.jit(jax.grad(task.loss))
    orders, same = draw("split", digits.y_train, 16, 3, seed=2)
    np.testing.assert_array_equal(part, same)
    for batch, row in zip(orders, sampled, strict=True):
        grads = gradient(params, digits.x_train[batch], digits.y_train[batch])["params"]
        whole = np.concatenate([grads[f"Dense_{layer}"]["bias"] for layer in (0, 1)])
        np.testing.assert_allclose(row, whole, rtol=1e-4, atol=1e-6)


# Tuning.


def test_looks_are_in_the_last_tenth_and_around_the_middle():
    assert end(100, 3) == [90, 95, 100] and end(100, 3, middle=True) == [45, 50, 55]
    assert end(100, 1) == [100] and end(100, 1, middle=True) == [50]
    assert end(4, 3) == [4] and end(1, 3, middle=True) == [1]


class FakeTrainer:
    """Accuracy depends on rate and steps: large rates are good at first only."""

    def __init__(self):
        self.asked = []

    def steps(self, cell, megabytes):
        return int(100 * megabytes)

    def train(self, cell, rates, stops, seed):
        self.asked.append((rates, stops[-1], seed))
        for stop in stops:
            yield stop, (stop, np.array(rates))

    def score(self, width, params, part):
        assert (width, part) == (32, "test")
        stop, rates = params
        best = 0.5 if stop <= 100 else 0.02
        return type("S", (), {"accuracy": -abs(np.log(rates / best))})


def test_each_budget_gets_its_own_rate_from_both_grids():
    config = Config(
        budgets=(1.0, 3.0), long_budget=4.0, split_grid=(0.001, 0.01, 0.1, 1.0),
        tune_seeds=(7, 8),
    )
    trainer = FakeTrainer()
    cell = Cell("split", 32, 128, "SGD")
    tuned = tune(trainer, cell, config)
    assert tuned.best == {1.0: 0.5, 3.0: 0.02}
    # The coarse grid for the largest budget; around 1 for the small one, around 0.01
    # for the large one; each with all seeds.
    assert trainer.asked[:2] == [(config.split_grid, 300, s) for s in (7, 8)]
    assert trainer.asked[2:] == [
        ((0.2, 0.5, 2.0, 5.0), 100, 7), ((0.2, 0.5, 2.0, 5.0), 100, 8),
        ((0.002, 0.005, 0.02, 0.05), 300, 7), ((0.002, 0.005, 0.02, 0.05), 300, 8),
    ]
    assert set(tuned.scores[3.0]) == {*config.split_grid, 0.002, 0.005, 0.02, 0.05}


def test_all_of_figures_3_and_5_is_trained_once():
    config = Config()
    cells = config.cells()
    assert len(cells) == len(set(cells)) == 2 * (3 + 3 + 2)
    long = [cell for cell in cells if 150.0 in config.budgets_of(cell)]
    assert long == [Cell("split", 64, 128, m) for m in ("signSGD", "SGD")]


# Shapes of distributions.


def test_shapes_of_known_distributions():
    rng = np.random.default_rng(0)
    n = 200_000
    part = rng.integers(0, 2, n)
    samples = np.stack([
        rng.standard_normal(n), rng.random(n), 2.0 * part - 1, rng.exponential(size=n),
        rng.standard_normal(n) + 3 * part, np.full(n, 7.0),
    ], axis=1)
    shape = shape_of(samples, part)
    np.testing.assert_allclose(shape.bimodality[:4], [1 / 3, 5 / 9, 1, 5 / 9],
                               rtol=0.03)
    np.testing.assert_allclose(shape.skewness[:4], [0, 0, 0, 2], atol=0.05)
    np.testing.assert_allclose(shape.separation[[0, 4]], [0, 3], atol=0.02)
    # The mean of two points may be on either side of 0.
    np.testing.assert_allclose(shape.success[[1, 3]], 1)
    np.testing.assert_array_equal(shape.moving, [True] * 5 + [False])
    assert share_bimodal(shape_of(samples[:, [0, 2, 5]], part)) == 0.5
    # Two normal densities pass 5/9 from a distance of 3.7 on, not from 2 on.
    apart = samples[:, :1] + np.array([1.9, 2.1, 3.6, 3.8]) * part[:, None]
    assert share_apart(shape_of(apart, part)) == 0.75
    assert share_bimodal(shape_of(apart, part)) == 0.25
    assert np.isnan(shape_of(samples, np.zeros(n)).separation).all()


# Verdicts.


class Curve(NamedTuple):
    """Accuracies in the middle and at the end of a run."""

    train: tuple[float, float]
    test: tuple[float, float]


SMALL = Config(
    widths=(4,), batch_sizes=(16, 32), batch_size=32, budgets=(1.0, 2.0),
    long_budget=3.0, epochs=(2, 3), seeds=(1, 2), looks=1,
)


def found_with(bimodal=(0.9, 0.1), **changes):
    """Returns results in which every claim holds, but for the changes."""
    curves = {
        ("split", "signSGD"): Curve((95, 96), (94, 94.1)),
        ("standard", "signSGD"): Curve((95, 96), (94, 95)),
        ("split", "SGD"): Curve((50, 60), (50, 60)),
        ("standard", "SGD"): Curve((50, 60), (50, 60)),
    } | {tuple(key.split("_")): value for key, value in changes.items()}
    runs = []
    for cell in SMALL.cells():
        curve = curves.get((cell.batches, cell.method, str(cell.batch_size)))
        curve = curve or curves[cell.batches, cell.method]
        more = cell.batch_size / 100
        for budget in SMALL.budgets_of(cell):
            for seed in SMALL.seeds:
                values = [np.array(v) + more for v in (curve.train, curve.test)]
                runs.append(Run(cell, budget, 0.1, seed, np.array([50, 90]),
                                np.array([0.5, 0.9]) * budget, np.zeros(2), *values))
    # Middle and end of 90 steps.
    runs = [r._replace(steps=np.array([45, 90])) for r in runs]
    sampled = []
    for seed in SMALL.seeds:
        for epoch in SMALL.epochs:
            for batches, share in zip(("split", "standard"), bimodal, strict=True):
                numbers = np.where(np.arange(20) < 20 * share, 0.9, 0.3)
                shape = shape_of(np.random.default_rng(0).random((9, 20)), np.zeros(9))
                shape = shape._replace(bimodality=numbers)
                sampled.append(Sampled(seed, epoch, batches, None, None, shape))
    tuned = {cell: Tuned({3.0: 0.1}, {}) for cell in SMALL.cells()}
    swept = [Swept(0.1, 11, epoch, 0.2, 0.4) for epoch in SMALL.epochs]
    return _study.Found((9, 9), {4: 310}, tuned, runs, sampled, swept)


def test_claims_hold_where_they_should():
    answers = judge(SMALL, found_with())
    assert set(answers) == {claim.key for claim in Config.CLAIMS}
    assert all(holds for holds, _, _ in answers.values())
    assert "96.3 ± 0.0% against 60.3" not in answers["early_split"][1]
    assert "94.4 ± 0.0% against 60.3 ± 0.0%" in answers["early_split"][1]


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"split_SGD": Curve((50, 94.5), (50, 60))}, {"early_split"}),
        ({"split_SGD": Curve((50, 60), (50, 92.5))}, {"early_split"}),
        ({"standard_SGD_16": Curve((50, 60), (50, 93.5))}, {"early_standard"}),
        ({"split_signSGD": Curve((95, 96), (94, 94.3))}, {"stall"}),
        ({"split_signSGD": Curve((96, 96), (94, 93))}, {"stall"}),
        ({"split_signSGD": Curve((95, 95.05), (94, 94.1))}, {"stall"}),
        ({"split_signSGD": Curve((88, 89), (94, 94.1))}, {"histograms"}),
        ({"bimodal": (0.5, 0.1)}, {"histograms"}),
        ({"bimodal": (0.9, 0.5)}, {"histograms"}),
        ({"standard_signSGD_16": Curve((95, 96.25), (94, 95))}, {"bigger_batch"}),
        ({"standard_signSGD": Curve((95, 96), (94, 93.9))}, {"generalises"}),
    ],
)
def test_each_claim_fails_for_its_own_reason(changes, fails):
    answers = judge(SMALL, found_with(**changes))
    assert {key for key, (holds, _, _) in answers.items() if not holds} == fails
    assert all(why for holds, _, why in answers.values() if not holds)


# The command.


def test_a_run_leaves_figures_numbers_and_verdicts(tmp_path, capsys):
    options = [
        "--data", "digits", "--widths", "4", "--batch-size", "16", "--batch-sizes",
        "16", "--budgets", "0.01,0.02", "--long-budget", "0.03", "--split-grid",
        "0.01,0.1", "--standard-grid", "0.01,0.1", "--fine", "", "--seeds", "1,2",
        "--epochs", "2,3", "--gradient-batches", "20", "--points", "2",
        "--results", str(tmp_path),
    ]
    found = _study.run(_cli.parse(Config, options, "mnist"))
    folder = tmp_path / "mnist"
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert set(verdicts) == {claim.key for claim in Config.CLAIMS}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [sum(line["what"] == w for line in lines) for w in
            ("tuning", "run", "gradients", "sweep")] == [4, 2 * (3 + 3 + 2 + 2), 8, 4]
    for one in found.runs:
        assert one.steps[-1] == int(one.budget * 1e6 / (310 * 4)) * (
            1 if one.cell.method == "SGD" else 32) + (
            0 if one.cell.method == "SGD" else int(one.budget * 1e6 * 8 / 310) % 32)
        assert (np.diff(one.megabytes) > 0).all() and one.megabytes[-1] <= one.budget
    # A run within a small budget is the beginning of one with the same rate.
    groups = {}
    for one in found.runs:
        groups.setdefault((one.cell, one.rate, one.seed), []).append(one)
    for runs in groups.values():
        for small, large in itertools.pairwise(runs):
            same = np.isin(large.steps, small.steps)
            both = np.isin(small.steps, large.steps)
            np.testing.assert_array_equal(
                large.test_accuracy[same], small.test_accuracy[both]
            )
    text = capsys.readouterr().out
    assert "| split    |     4 |    16 | 0.03 | signSGD |   774 |" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": (2.0, 1.0)}, r"budgets.*\(2.0, 1.0\)"),
        ({"budgets": ()}, "budgets"),
        ({"budgets": (0.0, 1.0)}, "budgets"),
        ({"long_budget": 8.0}, "8.0"),
        ({"long_budget": float("nan")}, "long_budget"),
        ({"widths": (0,)}, r"widths.*\(0,\)"),
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"epochs": (1, 5)}, "epochs.* 2"),
        ({"seeds": (1, 11)}, "seeds"),
        ({"tune_seeds": (-1,)}, "tune_seeds.* 0"),
        ({"fine": (0.0,)}, "fine"),
        ({"split_grid": ()}, "split_grid"),
        ({"standard_grid": (float("inf"),)}, "standard_grid"),
        ({"validation": 1.0}, "validation"),
        ({"gradient_batches": 1}, "gradient_batches"),
        ({"points": 0}, "points.* 0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Config(), **changes)


def test_budgets_too_small_for_a_gradient_stop_before_anything_is_written(tmp_path):
    options = ["--data", "digits", "--widths", "4", "--budgets", "0.001",
               "--results", str(tmp_path)]
    with pytest.raises(StudyError, match="one gradient"):
        _study.run(_cli.parse(Config, options, "mnist"))
    assert not list(tmp_path.iterdir())

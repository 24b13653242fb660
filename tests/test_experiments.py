"""The studies' commands on tiny settings, and what they share."""

import importlib
import json
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest
from contract_tools import quick_compilation  # noqa: F401

from experiments import _cli, _results, data, quickstart, training
from experiments._registry import STUDIES
from experiments.models import MLP

ROOT = pathlib.Path(__file__).parent.parent
TINY_CIFAR = ["--dataset", "synthetic", "--model", "resnet4_tiny", "--epochs", "1",
              "--train-images", "16", "--test-images", "8", "--batch-sizes", "8"]
TINY = {
    "adversaries": ["--workers", "2", "--adversaries", "1", "--epochs", "1",
                    "--seeds", "1", "--widths", "4", "--attacks", "vote=1"],
    "quickstart": ["--epochs", "1", "--seeds", "1", "--algorithms", "sign_sgd"],
    "bench_update": ["--rounds", "2", "--shrink", "20000", "--top-k-rounds", "1",
                     "--top-k-size", "10000"],
    "bench_wire": ["--rounds", "1", "--shrink", "1000", "--leaves", "4", "--no-torch",
                   "--only", "vote packed"],
    "distributed": ["--virtual", "2", "--steps", "4", "--widths", "8"],
    "mnist": ["--data", "digits", "--widths", "4", "--batch-size", "16",
              "--batch-sizes", "16", "--budgets", "0.01", "--long-budget", "0.02",
              "--split-grid", "0.01", "--standard-grid", "0.1", "--fine", "",
              "--seeds", "1", "--epochs", "2,3", "--gradient-batches", "20",
              "--points", "2"],
    "cifar": ["--algorithms", "sgdm", *TINY_CIFAR],
    "cifar_small": ["--algorithms", "sgdm,ef_sign", *TINY_CIFAR],
    "cifar_tune": ["--algorithms", "sgdm", "--grid", "0.1", "--validation", "8",
                   "--batch-size", "8",
                   "--evaluate-every", "1", *TINY_CIFAR[:-2]],
    "cifar_resnet20": ["--algorithms", "ef_sign", *TINY_CIFAR],
    "cifar100_resnet18": ["--algorithms", "sgdm", *TINY_CIFAR],
    "cifar10_vgg19": ["--algorithms", "sgdm", *TINY_CIFAR],
    "cifar_noise": ["--algorithms", "sgdm", "--seeds", "1", "--samples", "2",
                    *TINY_CIFAR[:-2], "--batch-size", "8"],
    "cifar_noise_resnet20": ["--algorithms", "sgdm", "--seeds", "1", "--samples", "2",
                             *TINY_CIFAR[:-2], "--batch-size", "8"],
    "density_at_init": ["--datasets", "digits", "--models", "mlp", "--widths", "8",
                        "--seeds", "1"],
    "cifar_grid": ["--algorithms", "signum", "--learning-rates", "0.01",
                   "--weight-decays", "0.01", "--test-epochs", "1", "--seeds", "1",
                   "--validation", "8", *TINY_CIFAR[:-2], "--batch-size", "8"],
    "imagenet": [],
    "error_feedback": ["--steps", "5", "--vectors", "3", "--dimension", "6",
                       "--horizons", "5,9", "--seeds", "2", "--rows", "4"],
    "counterexamples": ["--workers", "2", "--dimensions", "2", "--steps", "30",
                        "--vote-steps", "10", "--repeats", "2", "--grid-points", "50",
                        "--epsilons", "0.5", "--momentum-epsilons", "0.5", "--betas",
                        "0.9", "--schedules", "0.1", "--fixed", "0.1"],
    "least_squares": ["--points", "8", "--steps", "5", "--repeats", "2", "--grid",
                      "0.1"],
    "sparse_noise": ["--steps", "20", "--long", "30", "--soon", "10", "--early", "5",
                     "--repeats", "2", "--grid", "0.01"],
    "majority_vote": ["--workers", "1,3", "--widths", "", "--steps", "2", "--every",
                      "1", "--seeds", "1", "--adversaries", "0,1", "--points", "1",
                      "--draws", "2", "--methods", "sign_sgd"],
    "level_sets": ["--directions", "73", "--samples", "100"],
    "rosenbrock": ["--dimension", "4", "--steps", "100", "--repetitions", "2",
                   "--vote-repetitions", "1", "--sweep-repetitions", "1", "--every",
                   "20", "--draws", "10", "--points", "1", "--vote-draws", "20",
                   "--pairs", "1,2", "--sweep-noises", "1", "--sweep-starts", "zeros",
                   "--sweep-steps", "20,50"],
    "bench_cifar": ["--model", "resnet4_tiny", "--batch-size", "4", "--rounds", "1",
                    "--algorithms", "scaled_sign"],
    "rates_feedback": ["--horizons", "8,16", "--creases-horizons", "8,16", "--seeds",
                       "2", "--dimension", "8", "--kept", "2", "--kept-creases", "1",
                       "--pairs", "2", "--error-kept", "2", "--error-steps", "10",
                       "--fit-from", "8", "--rates", "0.05"],
    "rates_sign": ["--horizons", "8,16", "--seeds", "2", "--dimension", "4", "--noises",
                   "0.1,1", "--workers", "3", "--skewed-workers", "3",
                   "--valley-workers", "3,7", "--valley-steps", "16", "--betas", "0.5",
                   "--signum-noises", "1", "--signum-horizons", "8,16", "--signals",
                   "5", "--samples", "100", "--most-workers", "3", "--remark-workers",
                   "1,3", "--fit-from", "8"],
    "rates_stochastic": ["--horizons", "8,16", "--seeds", "2", "--dimension", "4",
                         "--workers", "3", "--signals", "5", "--samples", "100",
                         "--most-samples", "50", "--most-votes", "2",
                         "--against-steps", "8", "--multiples", "1", "--fit-from", "8"],
}


def configured(*options):
    return _cli.parse(quickstart.Config, options, "quickstart")


# The command line.


def test_list_answers_at_once_and_imports_nothing_heavy():
    code = (
        "import sys; from experiments import _cli; _cli.main(['list']); "
        "heavy = {'jax', 'numpy', 'flax', 'optax', 'sklearn', 'matplotlib', 'tqdm'}; "
        "print('IMPORTED', *sorted(heavy & set(sys.modules)))"
    )
    start = time.perf_counter()
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        check=True, timeout=60,
    ).stdout
    assert time.perf_counter() - start < 3
    assert out.splitlines()[-1] == "IMPORTED"
    for name, study in STUDIES.items():
        assert name in out and study.description in out


def test_main_is_the_command_line():
    out = subprocess.run(
        [sys.executable, "-m", "experiments", "no_such_study"], cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )
    assert out.returncode == 2
    assert "no study 'no_such_study'" in out.stderr and "quickstart" in out.stderr


# One study of each kind: rates, a toy, a plan. End to end are also the quickstart
# below, and those of test_cifar, test_mnist, test_voting and test_bench_wire.
QUICK = ("rates_sign", "least_squares", "imagenet")


@pytest.mark.parametrize("name", STUDIES)
def test_every_command_takes_its_options(name):
    study = STUDIES[name]
    config = getattr(importlib.import_module(study.module), study.config)
    assert _cli.parse(config, TINY[name], name) != _cli.parse(config, [], name) or (
        not TINY[name])


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in STUDIES])
def test_every_command_runs_and_leaves_its_files(name, tmp_path, capsys):
    assert _cli.main([name, *TINY[name], "--results", str(tmp_path)]) == 0
    directory = tmp_path / name
    saved = json.loads((directory / "config.json").read_text())
    assert saved["study"] == name and saved["config"]["results"] == str(tmp_path)
    assert saved["environment"]["jax"] == jax.__version__
    assert [json.loads(line) for line in (directory / "metrics.jsonl").open()]
    assert (directory / "summary.md").read_text().strip() in capsys.readouterr().out
    if saved["claims"]:
        for claim in json.loads((directory / "verdicts.json").read_text()).values():
            shown = claim["verdict"] != "not run" and claim["figure"]
            assert not shown or (directory / shown).exists(), claim["key"]


def test_quickstart_reports_what_it_measured(tmp_path, capsys):
    options = ["--epochs", "1", "--seeds", "1,2", "--widths", "4", "--algorithms",
               "sgd,ef_sign_sgd", "--learning-rates", "sgd=0.05,ef_sign_sgd=0.2"]
    measured = quickstart.run(configured(*options, "--results", str(tmp_path)))
    out = capsys.readouterr()
    assert "| SGD, momentum 0.9 | 0.05 |" in out.out and "points" in out.out
    assert out.err == ""  # no progress bar where nobody looks
    lines = [json.loads(x) for x in (tmp_path / "quickstart/metrics.jsonl").open()]
    assert [(x["algorithm"], x["seed"]) for x in lines] == [
        ("sgd", 1), ("sgd", 2), ("ef_sign_sgd", 1), ("ef_sign_sgd", 2)]
    assert all(len(x["losses"]) == x["steps"] == 22 for x in lines)
    assert lines[0]["learning_rate"] == 0.05 and lines[0]["parameters"] == 310
    assert (tmp_path / "quickstart/figure.png").read_bytes()[:4] == b"\x89PNG"
    # What was sent: gradients and a flag by all-reduce; signs, scales, flag by gather.
    assert measured["sgd"][0].bytes_per_step == 2 * 3 / 4 * 4 * (310 + 1)
    signs = sum(-(-n // 8) for n in (64 * 4, 4, 4 * 10, 10))
    assert measured["ef_sign_sgd"][0].bytes_per_step == 3 * (signs + 4 * 4 + 1)


def test_tuning_names_the_best_rate_of_its_grid(tmp_path, capsys):
    options = ["--tune", "--epochs", "2", "--widths", "8", "--algorithms", "sign_sgd",
               "--tune-grid", "1e-6,0.01,1e30", "--tune-seeds", "8,9",
               "--results", str(tmp_path)]
    best = quickstart.run(configured(*options))
    assert best == {"sign_sgd": 0.01}
    assert "--learning-rates sign_sgd=0.01" in capsys.readouterr().out
    assert (tmp_path / "quickstart_tune/summary.md").exists()


def test_tuned_rates_cover_every_algorithm_and_come_from_the_grid():
    for name, preset in quickstart.PRESETS.items():
        config = quickstart.Config(data=name)
        assert config.learning_rates.keys() == quickstart.ALGORITHMS.keys()
        assert set(config.learning_rates.values()) <= set(config.tune_grid)
        assert config.epochs == preset.epochs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "3"], "among 3"),
        (["--algorithms", "sgd,sgdd"], "got sgdd"),
        (["--learning-rates", "adma=1"], "got adma"),
        (["--learning-rates", "adam"], "not name=value"),
        (["--data", "cifar"], "not one of digits, mnist"),
        (["--epochs", "-1"], "negative"),
        (["--epochs", "two"], "invalid int value"),
        (["--tune-seeds", "4,1"], "tune_seeds"),
        (["--seeds", ""], "must not be empty"),
        (["--seeds", "1,-2"], "negative"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit) as refused:
        _cli.main(["quickstart", *options])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "mnist", "--data-dir", "nowhere"], "t10k-labels-idx1-ubyte"),
        (["--workers", "64"], "64 devices"),
        (["--batch-size", "4000"], "do not fill its batch"),
        (["--results", __file__], "cannot write to"),
    ],
)
def test_what_cannot_run_says_why(options, message, tmp_path, capsys):
    results = ["--results", str(tmp_path)] if "--results" not in options else []
    assert _cli.main(["quickstart", *options, *results]) == 2
    assert message in capsys.readouterr().err


# Training.


def tiny_task():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)).astype(np.float32), np.arange(40) % 2
    y = y.astype(np.int32)
    return training.Classification(MLP((2,), 2), data.Dataset(x, y, x, y))


def test_workers_train_as_one_on_the_whole_batch():
    task = tiny_task()
    trainer = training.Trainer(quickstart.sgd, task, workers=4, batch_size=40)
    run = trainer.train(0.3, seed=5, epochs=3)
    params = task.init(5)
    tx = optax.sgd(0.3, momentum=0.9)
    state, losses = tx.init(params), []
    grad_of = jax.jit(jax.value_and_grad(task.loss))
    for _ in range(3):
        loss, grads = grad_of(params, task.data.x_train, task.data.y_train)
        updates, state = tx.update(grads, state)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    for ours, theirs in zip(
        jax.tree.leaves(run.params), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_workers_that_drift_apart_are_found():
    task = tiny_task()
    trainer = training.Trainer(lambda lr, axis: optax.sgd(lr), task, 4, 8)
    with pytest.raises(RuntimeError, match="drifted"):
        trainer.train(0.3, seed=0, epochs=1)
    assert trainer.bytes_per_step == 0


def test_replicas_are_compared_by_their_bits():
    same = np.array([[np.nan, 0.0]] * 2)
    assert training.one_of({"w": same})["w"].shape == (2,)
    with pytest.raises(RuntimeError, match="'w'"):
        training.one_of({"w": np.array([[0.0], [-0.0]])})


# The tables.


def test_tables_align_and_numbers_carry_their_deviation():
    text = _results.table(["a", "b"], [["long", "1"], ["s", "234"]])
    assert text.splitlines() == [
        "| a    |   b |", "| ---- | --: |", "| long |   1 |", "| s    | 234 |"]
    assert _results.spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert _results.spread([1.0]) == "1.00"

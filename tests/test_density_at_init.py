"""Density of gradients at Xavier's initial values: values, refusals, a small run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_tools import quick_compilation  # noqa: F401

from experiments import _cli, models
from experiments.cifar import density
from experiments.cifar._xavier import xavier

TINY = ["--datasets", "digits", "--models", "mlp", "--widths", "8", "--seeds", "1,2"]


def configured(*options):
    return _cli.parse(density.Config, options, "density_at_init")


def test_initial_values_are_xaviers():
    network = models.build("resnet4_tiny", 10)
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    )
    start = jax.jit(lambda seed: xavier(jax.random.key(seed), shapes))
    variables = start(1)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes)
    # A kernel of 3 x 3 has nine times as many inputs and outputs as channels.
    kernel = np.asarray(variables["params"]["Block_0"]["Conv_1"]["kernel"])
    bound = np.sqrt(6 / (9 * kernel.shape[2] + 9 * kernel.shape[3]))
    assert kernel.shape[:2] == (3, 3) and kernel.size > 100
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.15)
    dense = variables["params"]["Dense_0"]
    fans = sum(dense["kernel"].shape)
    assert 0.8 * np.sqrt(6 / fans) < np.abs(dense["kernel"]).max() <= np.sqrt(6 / fans)
    assert not np.any(dense["bias"])
    norm = variables["params"]["BatchNorm_0"]
    assert np.all(norm["scale"] == 1) and not np.any(norm["bias"])
    assert np.all(variables["batch_stats"]["BatchNorm_0"]["var"] == 1)
    other = np.asarray(start(2)["params"]["Block_0"]["Conv_1"]["kernel"])
    assert abs(np.corrcoef(kernel.ravel(), other.ravel())[0, 1]) < 0.3


def test_networks_are_measured_on_the_data_they_fit():
    config = density.Config(datasets=("mnist", "synthetic"), seeds=(1,))
    assert [case.label for case in config.cases()] == [
        "mlp on mnist", "mlp on synthetic", "resnet8 on synthetic",
        "resnet20 on synthetic", "resnet18 on synthetic", "vgg19 on synthetic"]


def test_a_run_measures_every_seed_and_goes_on_where_it_was(tmp_path, capsys):
    options = [*TINY, "--batch-size", "256", "--results", str(tmp_path)]
    done = density.run(configured(*options))
    path = tmp_path / "density_at_init/metrics.jsonl"
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["seed"] for line in lines] == [1, 2]
    # 1438 digits to train on make five batches of 256.
    assert lines[0]["images"] == 1280 and lines[0]["parameters"] == 64 * 8 + 8 + 90
    for line in lines:
        assert 0.05 < line["gradient"] <= line["layerwise"] * 1.5 <= 1.5
        assert line["gradient"] != line["one_batch"]
    assert "mlp on digits" in capsys.readouterr().out
    assert density.run(configured(*options)) == done and path.read_text() == text
    verdict = json.loads((tmp_path / "density_at_init/verdicts.json").read_text())
    assert verdict["dense_at_init"]["verdict"] == "reproduced in kind"
    # The same numbers against a stricter criterion.
    strict = tmp_path / "strict"
    (strict / "density_at_init").mkdir(parents=True)
    (strict / "density_at_init/metrics.jsonl").write_text(text)
    saved = json.loads((tmp_path / "density_at_init/config.json").read_text())
    saved["config"]["dense"] = 0.99
    (strict / "density_at_init/config.json").write_text(json.dumps(saved))
    density.run(configured(*options[:-1], str(strict), "--dense", "0.99"))
    verdict = json.loads((strict / "density_at_init/verdicts.json").read_text())
    assert verdict["dense_at_init"]["verdict"] == "not reproduced"
    assert "mlp on digits" in verdict["dense_at_init"]["why"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--datasets", "digits,svhn"], "got svhn"),
        (["--models", "resnet8", "--datasets", "digits"], "models must have mlp"),
        (["--models", "resnet19"], "got 'resnet19'"),
        (["--images", "resnet8=5"], "at least batch_size, 128; got {'resnet8': 5}"),
        (["--seeds", ""], "seeds must be some"),
        (["--batch-size", "0"], "batch_size must be positive; got 0"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        configured(*options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--datasets", "cifar10", "--data-dir", "nowhere"], "nowhere has no such"),
        (["--datasets", "mnist", "--mnist-dir", "nowhere"], "nowhere lacks"),
        (["--datasets", "digits", "--images", "mlp=2000"], "2000 are asked for"),
    ],
)
def test_missing_data_say_so(options, message, tmp_path, capsys):
    command = ["density_at_init", *options, "--results", str(tmp_path)]
    assert _cli.main(command) == 2
    assert message in capsys.readouterr().err

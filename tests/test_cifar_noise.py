"""Densities of gradient and noise: passes and verdicts against NumPy, small runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import quick_compilation  # noqa: F401
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from experiments import _cli, models
from experiments._registry import load
from experiments.cifar import _noise_claims, _noise_lab, _shapes, noise
from experiments.cifar._full_pass import FullPass, densities, parameter_name
from experiments.cifar._noise_claims import Series

TINY = ["--dataset", "synthetic", "--model", "resnet4_tiny", "--epochs", "3",
        "--train-images", "24", "--test-images", "8", "--batch-size", "8",
        "--algorithms", "sgdm", "--samples", "5", "--parameters", "4"]


def configured(*options, config=noise.Config):
    return _cli.parse(config, options, "cifar_noise")


# A full pass.


class Normalised(nn.Module):
    """With batch normalisation, as images have it."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.relu(x))


@pytest.mark.parametrize("network", [models.MLP((4,), 2), Normalised()])
def test_a_pass_is_mean_and_deviation_of_the_batches_gradients(network):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3)).astype(np.float32)
    y = rng.integers(0, 2, 12).astype(np.int32)
    variables = jax.jit(network.init)(jax.random.key(0), x[:1])
    params, batch_stats = variables["params"], variables.get("batch_stats")
    batches = rng.permutation(12).reshape(4, 3).astype(np.int32)

    def scaled(key, x):
        return x * jax.random.uniform(key)

    @jax.jit
    def gradient(key, x, y):
        def loss(params):
            if batch_stats is None:
                logits = network.apply({"params": params}, scaled(key, x))
            else:
                logits, _ = network.apply(
                    {**variables, "params": params}, scaled(key, x), True,
                    mutable=["batch_stats"],
                )
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(3), y])

        return ravel_pytree(jax.grad(loss)(params))[0]

    key = jax.random.key(7)
    each = np.array([gradient(jax.random.fold_in(key, i), x[batch], y[batch])
                     for i, batch in enumerate(batches)], np.float64)
    run = FullPass(network, scaled, (5, 1))
    welford, kept = run(params, batch_stats, x, y, batches, key)
    np.testing.assert_allclose(kept, each[:, [5, 1]], rtol=1e-4, atol=1e-5)
    found = densities(welford).plain()
    mean, deviation = each.mean(0), each.std(0, ddof=1)

    def density(v):
        return np.abs(v).sum() ** 2 / v.size / (v**2).sum()

    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(params)])
    squares = [np.abs(t).sum() ** 2 / t.size for t in np.split(mean, ends[:-1])]
    assert found["gradient"] == pytest.approx(density(mean), rel=1e-3)
    assert found["noise"] == pytest.approx(density(deviation), rel=1e-3)
    assert found["layerwise"] == pytest.approx(sum(squares) / (mean**2).sum(), rel=1e-3)
    assert found["gradient_norm"] == pytest.approx(np.linalg.norm(mean), rel=1e-3)
    assert found["noise_norm"] == pytest.approx(np.linalg.norm(deviation), rel=1e-3)


def test_parameters_have_the_names_of_their_tensors():
    tree = {"a": np.zeros((2, 3)), "b": {"c": np.zeros(4)}}
    assert parameter_name(tree, 5) == "a[5]"
    assert parameter_name(tree, 6) == "b/c[0]"
    with pytest.raises(IndexError):
        parameter_name(tree, 10)


# Shapes of samples.


def brute_gap(sample):
    """The gap by its definition, with hulls from all chords."""
    x = np.sort(sample)
    f = np.arange(1, len(x) + 1) / len(x)

    def minorant(x, f):
        return np.array([
            min(((f[k] - f[i]) * (x[j] - x[i]) / (x[k] - x[i]) + f[i])
                for i in range(j + 1) for k in range(j, len(x)) if i < k)
            for j in range(len(x))
        ]) if len(x) > 1 else f

    gaps = []
    for m in range(len(x)):
        left = np.max(f[:m + 1] - minorant(x[:m + 1], f[:m + 1]))
        right = np.max(-f[m:] - minorant(x[m:], -f[m:]))
        gaps.append(max(left, right))
    return min(gaps)


@pytest.mark.parametrize("seed", range(5))
def test_gap_is_the_least_distance_over_all_modes(seed):
    rng = np.random.default_rng(seed)
    sample = rng.normal(size=13) + 3 * rng.integers(0, 2, 13)
    assert _shapes.unimodality_gap(sample) == pytest.approx(brute_gap(sample))


def test_two_modes_are_found_and_one_is_not():
    rng = np.random.default_rng(1)
    one = [rng.normal(size=250), rng.standard_t(2, 250), rng.exponential(size=250)]
    assert min(_shapes.unimodality_p(sample) for sample in one) > 0.2
    two = rng.normal(size=250) + 4.4 * rng.integers(0, 2, 250)
    assert _shapes.unimodality_p(two) < 0.01


def test_shapes_of_samples_that_do_not_vary_or_are_not_finite():
    assert _shapes.skewness(np.ones(5)) == 0 and _shapes.unimodality_p(np.ones(5)) == 1
    assert _shapes.skewness([0, 0, 0, 1]) == pytest.approx(2 / np.sqrt(3))
    broken = np.array([0, np.nan, 1])
    assert np.isnan(_shapes.skewness(broken))
    assert np.isnan(_shapes.unimodality_p(broken))


# Verdicts.


def verdicts(gradient, deviation, skew=(0.0, 0.1, 0.2), p=(0.5, 0.6, 0.7), **changes):
    options = {"epochs": 10, "algorithms": ("sgdm",), **changes}
    series = [Series("sgdm", 1, np.arange(len(gradient)), np.array(gradient),
                     np.array(deviation))]
    return _noise_claims.judged(noise.Config(**options), series, {"sgdm": (skew, p)})


def test_verdicts_follow_their_criteria():
    rng = np.random.default_rng(0)
    gradient = 0.3 * np.exp(0.01 * rng.normal(size=10))
    gradient[6:] *= 1.5  # The drop is before epoch 5: seen at the beginning of 6.
    gradient[9:] *= 1.5  # The other one before epoch 8.
    good = verdicts(gradient, 1.2 * gradient)
    assert [key for key, (holds, _, why) in good.items() if holds and not why] == [
        "dense", "same_order", "coupled", "jumps", "unimodal", "symmetric"]
    # Sparse, far apart, opposed, and changing everywhere alike.
    swing = np.exp(0.5 * (-1.0) ** np.arange(10))
    bad = verdicts(0.04 * swing, 0.4 / swing, (0, 0.6, -0.7), (0.5, 0.01, 0.02))
    assert not any(holds for holds, _, _ in bad.values())
    assert all(why for _, _, why in bad.values())
    assert bad["unimodal"][1].startswith("1 of 3")
    # A change at another epoch is no jump at a drop.
    shifted = np.roll(gradient, -2)
    assert not verdicts(shifted, shifted)["jumps"][0]


def test_verdicts_of_a_training_that_diverged_do_not_fail():
    broken = verdicts([0.3, np.nan], [0.4, np.nan], skew=(np.nan,) * 3, p=(np.nan,) * 3)
    assert not any(holds for holds, _, _ in broken.values())


# Runs.


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run, its lines, and what each of its passes was given."""
    root, passes = tmp_path_factory.mktemp("noise"), []

    class Spied(FullPass):
        def __call__(self, params, batch_stats, images, labels, batches, key):
            size = float(optax.tree.norm(params))
            passes.append((size, batches, jax.random.key_data(key).tolist()))
            return super().__call__(params, batch_stats, images, labels, batches, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_noise_lab, "FullPass", Spied)
        series = noise.run(configured(*TINY, "--seeds", "1,2", "--results", str(root)))
    lines = [json.loads(line) for line in
             (root / "cifar_noise/metrics.jsonl").read_text().splitlines()]
    return root, series, lines, passes


def test_a_run_measures_before_every_epoch(done):
    root, series, lines, _ = done
    epochs = [(x["seed"], x["epoch"]) for x in lines if x["kind"] == "epoch"]
    assert epochs == [(seed, epoch) for seed in (1, 2) for epoch in range(3)]
    assert [len(one.gradient) for one in series] == [3, 3]
    # Noise of the first seed only, after 50/160 of all epochs, as many passes as
    # give five batches.
    drawn = [line for line in lines if "noise_samples" in line]
    assert [(x["seed"], x["epoch"]) for x in drawn] == [(1, 1)]
    samples = np.array(drawn[0]["noise_samples"])
    assert samples.shape == (3, 6) and len(set(drawn[0]["parameters"])) == 4
    np.testing.assert_allclose(samples.mean(1), 0, atol=1e-3 * np.abs(samples).max())
    assert (root / "cifar_noise/figure_noise.png").exists()


def test_every_pass_is_over_all_images_in_an_order_of_its_own(done):
    *_, passes = done
    sizes, batches, keys = zip(*passes, strict=True)
    # Two passes at the point where the noise is drawn.
    assert len(passes) == 7 and sizes[1] == sizes[2] and len(set(sizes)) == 6
    for one in batches:
        assert one.shape == (3, 8) and sorted(one.ravel()) == list(range(24))
    assert len({one.tobytes() for one in batches}) == 7
    assert len({tuple(key) for key in keys}) == 7


def test_a_run_goes_on_where_it_was(done, capsys):
    root, series, *_ = done
    path = root / "cifar_noise/metrics.jsonl"
    text = path.read_text()
    again = noise.run(configured(*TINY, "--seeds", "1,2", "--results", str(root)))
    assert path.read_text() == text  # Nothing was trained again.
    for one, other in zip(series, again, strict=True):
        np.testing.assert_array_equal(one.gradient, other.gradient)
    assert "2 seeds" in capsys.readouterr().out


# Configurations.


def test_the_full_configuration_is_the_papers():
    module, config = load("cifar_noise_resnet20")
    full = config()
    assert module is noise and full.histogram_epoch == 50 and full.model == "resnet20"
    assert (full.epochs, full.batch_size, full.seeds) == (160, 128, (1, 2, 3))
    assert full.learning_rates == {"sgdm": 0.1, "signum": 1e-3, "adam": 1e-3}
    assert full.weight_decays == {"sgdm": 1e-4, "signum": 1e-5, "adam": 1e-4}
    assert full.recipe().plan(128, 0.1, 1).drops == (80, 120)
    assert all(claim.not_run for claim in full.CLAIMS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--algorithms", "sgd"], "got sgd"),
        (["--weight-decays", "sgdm=0"], "weight_decays lacks signum, adam"),
        (["--learning-rates", "sgdm=1"], "learning_rates lacks signum, adam"),
        (["--seeds", "1,1"], "different"),
        (["--parameters", "2"], "at least 3; got 2"),
        (["--histogram-after", "1"], "in [0, 1); got 1"),
        (["--samples", "0"], "samples must be positive; got 0"),
        (["--drops", "2"], "parts of all epochs"),
        (["--part", "2/2"], "part must be i/n"),
        (["--model", "resnet19"], "got 'resnet19'"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        configured(*options)
    assert message in capsys.readouterr().err

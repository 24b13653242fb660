"""Training on CIFAR: steps against optax by hand, protocols, resuming, refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import quick_compilation  # noqa: F401

import ef_optax as eo
from experiments import _cli, data, models
from experiments._registry import StudyError, load
from experiments._results import Results
from experiments.cifar import _images, _training, comparison, tune
from experiments.cifar._algorithms import ALGORITHMS
from experiments.cifar._recipe import hold_out, on_device
from experiments.cifar._resume import read_part
from experiments.cifar._runs import run_all
from experiments.cifar._steps import SUMMED, Steps

TINY = {
    "dataset": "synthetic", "model": "resnet4_tiny", "train_images": 48,
    "test_images": 24, "epochs": 4, "batch_sizes": (16,), "seeds": (1,),
    "algorithms": ("ef_sign",), "evaluate_every": 1,
}


def config(tmp_path, **changes):
    return comparison.Config(**{**TINY, **changes}, results=str(tmp_path))


@pytest.fixture(scope="module")
def images():
    return data.synthetic_images(48, 24)


@pytest.fixture(scope="module")
def ef_steps():
    return comparison.Config(**TINY).steps("ef_sign", 10)


# Images.


def test_augmented_images_are_crops_or_mirrored_crops():
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
    out = np.asarray(_images.augment(jax.random.key(1), images, padding=2))
    found = set()
    for image, got in zip(np.asarray(images), out, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        crops = [
            (row, column, mirrored)
            for row in range(5) for column in range(5) for mirrored in (False, True)
            if np.array_equal(
                padded[row:row + 8, column:column + 8][:, ::-1 if mirrored else 1], got
            )
        ]
        assert len(crops) == 1
        found.add(crops[0])
    assert len(found) > 3 and {mirrored for *_, mirrored in found} == {False, True}


def test_normalization_is_by_channel():
    pixels = np.zeros((1, 2, 2, 3), np.uint8) + np.array([125, 123, 0], np.uint8)
    out = np.asarray(_images.normalize(jnp.asarray(pixels)))
    np.testing.assert_allclose(
        out[0, 0, 0], [-0.3 / 63, 0, -113.9 / 66.7], atol=1e-6
    )


# Steps.


def by_hand(name, params, grads, state, rate, decay):
    """One step of an algorithm in NumPy, on flat lists of arrays."""
    out, kept = [], []
    for p, g, m in zip(params, grads, state, strict=True):
        v = g + decay * p
        if name == "scaled_sign":
            move, m = rate * np.abs(v).mean() * np.sign(v), m
        elif name == "ef_sign":
            total = rate * v + m
            move = np.abs(total).mean() * np.sign(total)
            m = total - move
        else:
            m = 0.9 * m + v
            move = rate * (np.sign(m) if name == "signum" else m)
        out.append(p - move)
        kept.append(m)
    return out, kept


@pytest.mark.parametrize("name", ["sgdm", "scaled_sign", "signum", "ef_sign"])
def test_algorithms_are_those_of_the_papers_code(name):
    rng = np.random.default_rng(0)
    params = [rng.normal(size=shape) for shape in ((3, 4), (5,))]
    tx = ALGORITHMS[name].make(0.1)(0.03, None)
    tree = [jnp.asarray(p, jnp.float32) for p in params]
    optimizer, state = tx.init(tree), [np.zeros_like(p) for p in params]
    for _ in range(4):
        grads = [rng.normal(size=p.shape) for p in params]
        updates, optimizer = tx.update(
            [jnp.asarray(g, jnp.float32) for g in grads], optimizer, tree
        )
        tree = optax.apply_updates(tree, updates)
        params, state = by_hand(name, params, grads, state, 0.03, 0.1)
    for got, expected in zip(tree, params, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_a_step_is_the_gradient_step_and_sums_what_it_saw(images, ef_steps):
    steps = ef_steps
    plan = comparison.Config(**TINY).plan(16, 0.5, 3)
    state = jax.tree.map(lambda x: x.copy(), steps.start(3))
    batch = plan.batches(0, 48)[0]
    x = _images.augment(
        jax.random.fold_in(state.key, 0), _images.normalize(images.x_train[batch])
    )
    network = models.build("resnet4_tiny", 10)

    def loss(params):
        logits, _ = network.apply(
            {"params": params, "batch_stats": state.batch_stats}, x, True,
            mutable=["batch_stats"],
        )
        y = images.y_train[batch]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    tx = eo.ef_sign_sgd(0.0625, weight_decay=5e-4)
    updates, _ = tx.update(grads, tx.init(state.params), state.params)
    expected = optax.apply_updates(state.params, updates)
    assert plan.rate(0) == 0.0625
    decayed = jax.tree.map(lambda g, p: g + 5e-4 * p, grads, state.params)
    signs = [np.asarray(v, np.float64) for v in jax.tree.leaves(decayed)]
    ratio = (sum(np.abs(v).sum() ** 2 / v.size for v in signs)
             / sum((v**2).sum() for v in signs))
    after = steps.train(state, images.x_train, images.y_train, batch, plan.rate(0))
    for got, want in zip(
        jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    sums = dict(zip(SUMMED, np.asarray(after.sums), strict=True))
    assert sums["train_loss"] == pytest.approx(float(value), rel=1e-4)
    assert sums["density"] == pytest.approx(ratio, rel=1e-3)
    # The first error is zero: the corrected gradient has the gradient's direction.
    assert sums["corrected_density"] == pytest.approx(ratio, rel=1e-3)


def test_evaluation_counts_every_image_once(images, ef_steps):
    state = ef_steps.start(0)
    whole = ef_steps.evaluate(state, images.x_test, images.y_test, batch=24)
    parts = ef_steps.evaluate(state, images.x_test, images.y_test, batch=10)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_two_workers_see_their_parts_of_the_batch(images):
    recipe = comparison.Config(**{**TINY, "workers": 2, "augmented": False})
    steps = recipe.steps("sgdm", 10)
    state = steps.start(0)
    network = models.build("resnet4_tiny", 10)
    batch = np.arange(16)
    x_train, y_train = map(jnp.asarray, (images.x_train, images.y_train))

    def loss(params, part):
        logits, _ = network.apply(
            {"params": params, "batch_stats": state.batch_stats},
            _images.normalize(x_train[part]), True, mutable=["batch_stats"],
        )
        y = y_train[part]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    grad = jax.jit(jax.grad(loss))
    grads = [grad(state.params, part) for part in np.split(batch, 2)]
    expected = jax.tree.map(
        lambda p, a, b: p - 0.5 * ((a + b) / 2 + 5e-4 * p), state.params, *grads
    )
    params = jax.tree.map(np.asarray, expected)
    after = steps.train(
        state, images.x_train, images.y_train, batch, np.float32(0.5)
    )
    for got, want in zip(
        jax.tree.leaves(after.params), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


# Trainings.


def test_the_learning_rate_falls_and_scales_with_the_batch():
    plan = comparison.Config(epochs=200).plan(32, 1e-2, 0)
    rates = [float(plan.rate(epoch)) for epoch in (0, 99, 100, 149, 150, 199)]
    np.testing.assert_allclose(
        rates, np.array([1, 1, 0.1, 0.1, 0.01, 0.01]) * 1e-2 / 4, rtol=1e-6
    )


def test_batches_are_the_data_in_another_order_every_epoch():
    plan = comparison.Config(**TINY).plan(16, 1.0, 0)
    first, second = plan.batches(0, 50), plan.batches(1, 50)
    assert first.shape == second.shape == (3, 16)
    assert len(np.unique(first)) == 48 and not np.array_equal(first, second)
    np.testing.assert_array_equal(first, plan.batches(0, 50))


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("protocol", "workers"), [
        ("original", 1), *(pytest.param("clean", n, marks=pytest.mark.slow)
                           for n in (1, 2))]
)
def test_a_training_that_was_killed_ends_with_the_same_bits(
    protocol, workers, images, ef_steps, tmp_path
):
    if workers > 1:
        ef_steps = comparison.Config(**TINY, workers=workers).steps("ef_sign", 10)
    plan = comparison.Config(**TINY).plan(16, 1.0, 2)._replace(
        protocol=protocol, checkpoint_every=1
    )
    parts = on_device(images)
    whole = _training.train(ef_steps, plan, *parts, tmp_path / "whole")

    def kill(epoch, state):
        if epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        _training.train(
            ef_steps, plan, *parts, tmp_path / "cut", before_epoch=kill
        )
    began = []
    again = _training.train(
        ef_steps, plan, *parts, tmp_path / "cut",
        before_epoch=lambda epoch, state: began.append(epoch),
    )
    assert began == [3]
    for a, b in zip(
        jax.tree.leaves(whole.state.optimizer), jax.tree.leaves(again.state.optimizer),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.history[:, :-1], again.history[:, :-1])


def test_protocols_differ_at_the_drops(images, ef_steps):
    plan = comparison.Config(**TINY).plan(16, 1.0, 2)._replace(epochs=3, drops=(1, 2))
    seen = {}
    for protocol in ("clean", "original"):
        norms = seen[protocol] = []
        _training.train(
            ef_steps, plan._replace(protocol=protocol), *on_device(images),
            before_epoch=lambda epoch, state, norms=norms: norms.append(
                float(eo.error_norm(state.optimizer))),
        )
    assert seen["clean"][1] > 0 and seen["clean"][2] > 0  # state is carried through
    assert seen["original"][1] == seen["original"][2] == 0  # a new optimizer


def test_a_training_that_diverges_stops_and_counts_as_guessing(tmp_path):
    small = config(tmp_path, learning_rates={"sgdm": 1e30}, algorithms=("sgdm",))
    (ended,) = comparison.run(small)
    assert ended.diverged and ended.last("test_accuracy") == 10
    assert np.isnan(ended.columns["train_loss"][-1])
    assert "Diverged trainings count" in (tmp_path / "cifar/summary.md").read_text()


# Studies.


def test_processes_share_the_trainings(tmp_path):
    two = config(tmp_path, seeds=(1, 2), epochs=1, checkpoint_every=0, part="0/2",
                 algorithms=("sgdm",), densities=False)
    with pytest.raises(StudyError, match=r"1 of 2"):
        comparison.run(two)
    assert not (tmp_path / "cifar/summary.md").exists()
    with pytest.raises(StudyError, match="configuration"):
        comparison.run(dataclasses.replace(two, epochs=2))
    comparison.run(dataclasses.replace(two, part="0/1"))
    lines = (tmp_path / "cifar/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 2]
    before = (tmp_path / "cifar/metrics.jsonl").read_bytes()
    comparison.run(dataclasses.replace(two, part="0/1"))  # nothing is left to train
    assert (tmp_path / "cifar/metrics.jsonl").read_bytes() == before


def test_tuning_chooses_by_held_out_images(tmp_path):
    best = tune.run(tune.Config(
        dataset="synthetic", model="resnet4_tiny", train_images=48, epochs=2,
        validation=16, batch_size=8, algorithms=("sgdm",), grid=(1e-9, 0.1, 1e30),
        evaluate_every=1, results=str(tmp_path),
    ))
    assert best["sgdm"] in (1e-9, 0.1)
    assert "last 16 training images" in (tmp_path / "cifar_tune/summary.md").read_text()


def test_held_out_images_are_not_trained_on(images):
    held = hold_out(images, 16)
    assert len(held.y_train) == 32 and len(held.y_test) == 16
    np.testing.assert_array_equal(held.x_test, images.x_train[32:])
    with pytest.raises(StudyError, match="47"):
        hold_out(images, 48)


def test_full_configurations_are_those_of_the_paper():
    for name, rates in (
        ("cifar100_resnet18", (1.0e-2, 5.6e-2, 3.2e-4, 5.6e-2)),
        ("cifar10_vgg19", (1.0e-2, 5.6e-2, 5.6e-5, 5.6e-2)),
    ):
        full = load(name)[1]()
        assert full.epochs == 200 and full.batch_sizes == (128, 32, 8)
        assert len(full.seeds) == 3
        assert full.weight_decay == 5e-4 and full.plan(128, 1.0, 0).drops == (100, 150)
        got = [full.learning_rates[a] for a in full.algorithms]
        np.testing.assert_allclose(got, rates, rtol=0.02)
        assert full.model == name.partition("_")[2]
        assert full.dataset == name.partition("_")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "resnet19"], "got 'resnet19'"),
        (["--algorithms", "sgd"], "got sgd"),
        (["--learning-rates", "sgdm=1"], "lacks scaled_sign"),
        (["--batch-sizes", "12", "--workers", "5"], "among 5"),
        (["--drops", "50,75"], "parts of all epochs"),
        (["--part", "2/2"], "got '2/2'"),
        (["--protocol", "original", "--evaluate-every", "2"], "evaluate_every"),
        (["--seeds", ""], "seeds must be some"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        _cli.main(["cifar", *options])
    assert message in capsys.readouterr().err


def test_parts():
    assert read_part("1/3") == (1, 3)
    for bad in ("1", "a/b", "3/3", "-1/2"):
        with pytest.raises(ValueError, match="i/n"):
            read_part(bad)


def test_too_many_images_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load_cifar", lambda *_: data.synthetic_images(20, 10))
    asked = comparison.Config(train_images=21, results=str(tmp_path))
    with pytest.raises(StudyError, match=r"train_images.*20.*21"):
        asked.load()
    assert len(comparison.Config(train_images=5).load().y_train) == 5
    results = Results(tmp_path, "cifar", asked, resume=True)
    with pytest.raises(StudyError):
        run_all(asked, results, asked.jobs())


def test_a_batch_that_nothing_fills_is_refused(images, ef_steps):
    plan = comparison.Config(**TINY).plan(64, 1.0, 0)
    with pytest.raises(StudyError, match=r"48.*batch"):
        _training.train(ef_steps, plan, *on_device(images))


def test_steps_without_densities_measure_none(images):
    steps = Steps(
        models.build("resnet4_tiny", 10), ALGORITHMS["sgdm"].make(0.0), 0.0, False,
        False,
    )
    state = steps.train(
        steps.start(0), images.x_train, images.y_train, np.arange(8), np.float32(0.1)
    )
    assert np.isnan(np.asarray(state.sums)[2:]).all()
    assert np.isfinite(np.asarray(state.sums)[:2]).all()

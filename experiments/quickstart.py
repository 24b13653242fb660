"""The first training: six optimizers, four workers, handwritten digits.

What each worker sends, and what that costs in accuracy: `python -m experiments
quickstart`. Everything crosses compressed, biases too. Learning rates were chosen on a
validation split (`--tune` repeats that) and are constant.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import field
from typing import Any, Literal, NamedTuple

import numpy as np
import optax

import ef_optax
from experiments import _comparison, data
from experiments._checks import (
    check_not_negative,
    check_share,
    check_some,
    check_tuning,
)
from experiments._comparison import Entry, Measured
from experiments._results import Results, count_text, progress, table
from experiments._workers import worker_devices
from experiments.models import MLP
from experiments.training import Classification, Trainer


def sgd(learning_rate: Any, axis_name: str) -> optax.GradientTransformation:
    """SGD with momentum on gradients averaged in full precision."""
    return optax.chain(
        ef_optax.compress(ef_optax.identity(), axis_name=axis_name),
        optax.trace(decay=0.9),
        optax.scale_by_learning_rate(learning_rate),
    )


def adam(learning_rate: Any, axis_name: str) -> optax.GradientTransformation:
    """Adam on gradients averaged in full precision."""
    return optax.chain(
        ef_optax.compress(ef_optax.identity(), axis_name=axis_name),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(learning_rate),
    )


def ef_top_k(learning_rate: Any, axis_name: str) -> optax.GradientTransformation:
    """SGD with error feedback that sends one coordinate in a hundred."""
    return ef_optax.ef_sgd(
        learning_rate, ef_optax.top_k(fraction=0.01), axis_name=axis_name
    )


ALGORITHMS = {
    "sgd": Entry("SGD, momentum 0.9", sgd),
    "adam": Entry("Adam", adam),
    "sign_sgd": Entry(
        "signSGD, majority vote",
        lambda lr, axis: ef_optax.sign_sgd(lr, axis_name=axis),
    ),
    "scaled_sign": Entry(
        "scaled signSGD",
        lambda lr, axis: ef_optax.scaled_sign_sgd(lr, axis_name=axis),
    ),
    "ef_sign_sgd": Entry(
        "EF-signSGD", lambda lr, axis: ef_optax.ef_sign_sgd(lr, axis_name=axis)
    ),
    "ef_top_k": Entry("EF-SGD, top-k 1%", ef_top_k),
}


class Preset(NamedTuple):
    """What depends on the data: rates are the best of the grid, see `--tune`."""

    epochs: int
    learning_rates: dict[str, float]


PRESETS = {
    "digits": Preset(
        epochs=30,
        learning_rates={
            "sgd": 0.1, "adam": 1e-3, "sign_sgd": 1e-3, "scaled_sign": 0.3,
            "ef_sign_sgd": 1.0, "ef_top_k": 1.0,
        },
    ),
    "mnist": Preset(
        epochs=3,
        learning_rates={
            "sgd": 0.03, "adam": 1e-3, "sign_sgd": 3e-4, "scaled_sign": 0.03,
            "ef_sign_sgd": 0.1, "ef_top_k": 0.1,
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Six optimizers train a small network on handwritten digits."""

    data: Literal["digits", "mnist"] = field(
        default="digits", metadata={"help": "scikit-learn's 1797 digits, or MNIST"}
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "where MNIST's IDX files are, .gz or not; none: fetched",
            "place": True,
        },
    )
    algorithms: tuple[str, ...] = field(
        default=tuple(ALGORITHMS), metadata={"help": "which to compare"}
    )
    workers: int = field(default=4, metadata={"help": "each on a device of its own"})
    batch_size: int = field(default=64, metadata={"help": "of all workers together"})
    widths: tuple[int, ...] = field(
        default=(128, 64), metadata={"help": "of the hidden layers"}
    )
    epochs: int = field(
        default=0, metadata={"help": "0: 30 for digits, 3 for MNIST"}
    )
    learning_rates: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "in place of the tuned ones, by algorithm"},
    )
    seeds: tuple[int, ...] = field(
        default=(1, 2, 3), metadata={"help": "of initial values and batches"}
    )
    split_seed: int = field(
        default=0, metadata={"help": "of the test and validation parts"}
    )
    tune: bool = field(
        default=False, metadata={"help": "search the learning rates, and stop there"}
    )
    tune_grid: tuple[float, ...] = field(
        default=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0),
        metadata={"help": "learning rates to try"},
    )
    tune_seeds: tuple[int, ...] = field(
        default=(11, 12, 13), metadata={"help": "for the search"}
    )
    validation: float = field(
        default=0.2, metadata={"help": "part of the training data to tune on"}
    )
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Fills in what depends on the data, and refuses what cannot run."""
        preset = PRESETS[self.data]
        check_some("algorithms", self.algorithms, ALGORITHMS)
        rates = [*self.learning_rates, *self.algorithms]
        check_some("learning_rates", rates, ALGORITHMS)
        check_not_negative(self, "epochs")
        object.__setattr__(self, "epochs", self.epochs or preset.epochs)
        object.__setattr__(
            self, "learning_rates", preset.learning_rates | self.learning_rates
        )
        check_share(self.batch_size, self.workers)
        check_tuning(self)


def run(config: Config) -> dict[str, Any]:
    """Trains, or tunes; returns what was measured, by algorithm."""
    worker_devices(config.workers)
    loaded = data.load(config.data, config.data_dir, config.split_seed)
    return _tune(config, loaded) if config.tune else _compare(config, loaded)


def _compare(config: Config, loaded: data.Dataset) -> dict[str, list[Measured]]:
    """Trains with every algorithm from every seed, tabulates and draws."""
    task = _task(config, loaded)
    results = Results(config.results, _name(config), config)
    measured: dict[str, list[Measured]] = {name: [] for name in config.algorithms}
    with progress(len(measured) * len(config.seeds) * config.epochs) as bar:
        for name, done in measured.items():
            bar.set_description(f"{name}, compiling")
            trainer = _trainer(config, name, task)
            rate = config.learning_rates[name]
            for seed in config.seeds:
                bar.set_description(f"{name}, seed {seed}")
                trained = trainer.train(rate, seed, config.epochs, bar.update)
                scores = task.evaluate(trained.params)
                done.append(Measured(trained, trainer.bytes_per_step, scores))
                results.metric(
                    algorithm=name, seed=seed, learning_rate=rate, **scores,
                    steps=len(trained.losses), seconds=trained.seconds,
                    compile_seconds=trainer.compile_seconds,
                    parameters=task.parameters, bytes_per_step=trainer.bytes_per_step,
                    losses=trained.losses,
                )
    title = f"{config.data}, {config.workers} workers"
    figure = _comparison.figure_of(title, ALGORITHMS, measured)
    results.figure(figure)
    results.finish(_summary(config, task, measured))
    return measured


def _tune(config: Config, loaded: data.Dataset) -> dict[str, float]:
    """Tries every rate of the grid on a validation split; returns the best ones."""
    task = _task(config, data.hold_out(loaded, config.validation, config.split_seed))
    results = Results(config.results, _name(config) + "_tune", config)
    best: dict[str, float] = {}
    rows = []
    trainings = len(config.algorithms) * len(config.tune_grid) * len(config.tune_seeds)
    with progress(trainings * config.epochs) as bar:
        for name in config.algorithms:
            bar.set_description(f"{name}, compiling")
            trainer = _trainer(config, name, task)
            scores: dict[float, list[dict[str, float]]] = {}
            for rate, seed in itertools.product(config.tune_grid, config.tune_seeds):
                bar.set_description(f"{name}, rate {rate:g}, seed {seed}")
                trained = trainer.train(rate, seed, config.epochs, bar.update)
                score = task.evaluate(trained.params)
                scores.setdefault(rate, []).append(score)
                results.metric(algorithm=name, learning_rate=rate, seed=seed, **score)
            best[name] = max(scores, key=lambda rate: _merit(scores[rate]))
            at_edge = best[name] in (min(config.tune_grid), max(config.tune_grid))
            rows.append(
                [ALGORITHMS[name].label, f"{best[name]:g}" + "*" * at_edge]
                + [f"{_merit(several)[0]:.2f}" for several in scores.values()]
            )
    header = ["algorithm", "best rate", *(f"{rate:g}" for rate in config.tune_grid)]
    chosen = ",".join(f"{name}={rate:g}" for name, rate in best.items())
    summary = "\n".join([
        f"Mean accuracy in % on {config.validation:.0%} of the training data of "
        f"{config.data}, {config.epochs} epochs, by learning rate:",
        "", table(header, rows), "",
        "Of equal accuracies the one with the lower loss; * at the edge of the grid.",
        "", f"--learning-rates {chosen}",
    ])
    results.finish(summary)
    return best


def _merit(scores: list[dict[str, float]]) -> tuple[float, float]:
    """Orders learning rates by what they reached on the validation split."""
    return _comparison.merit(
        [score["test_accuracy"] for score in scores],
        [score["test_loss"] for score in scores],
    )


def _name(config: Config) -> str:
    return "quickstart" if config.data == "digits" else f"quickstart_{config.data}"


def _task(config: Config, loaded: data.Dataset) -> Classification:
    return Classification(MLP(config.widths), data.standardize(loaded))


def _trainer(config: Config, name: str, task: Classification) -> Trainer:
    return Trainer(ALGORITHMS[name].make, task, config.workers, config.batch_size)


def _summary(
    config: Config, task: Classification, measured: dict[str, list[Measured]]
) -> str:
    """Returns what was run, the table, and how EF-signSGD did."""
    steps = max(len(m.run.losses) for done in measured.values() for m in done)
    held = len(task.data.x_test)
    text = (
        f"{config.data}: {len(task.data.x_train)} training and {held} test examples; "
        f"{task.parameters} parameters, {config.workers} workers, "
        f"{config.batch_size} examples a step, {config.epochs} epochs ({steps} steps), "
        f"{count_text(len(config.seeds), 'seed')}.\n\n"
        + _comparison.rows_of(
            ALGORITHMS, config.learning_rates, measured, task.parameters, config.workers
        )
        + f"\n\n{_comparison.LEGEND} One test example is {100 / held:.2f} points. "
        "Only SGD and Adam have momentum."
    )
    if not {"sgd", "ef_sign_sgd"} <= measured.keys():
        return text
    sgd, ef_sign = (
        float(np.mean([m.scores["test_accuracy"] for m in measured[name]]))
        for name in ("sgd", "ef_sign_sgd")
    )
    gap = sgd - ef_sign
    return text + (
        f"\n\nEF-signSGD ends {abs(gap):.2f} points "
        f"{'below' if gap > 0 else 'above'} SGD in mean test accuracy: "
        f"{'not ' if gap > 1 else ''}within 1 point."
    )

"""Adversaries: some workers send the opposite of their gradient, or much more of it.

A vote counts heads, so that fewer than half of the workers cannot turn it, whatever
numbers they send; to a mean one worker is enough. `python -m experiments adversaries`
trains the quickstart's network with 0 to 5 of 9 workers against the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import ef_optax
from experiments import _plots, data
from experiments._checks import check_share
from experiments._results import Results, count_text, progress, spread, table
from experiments._workers import worker_devices
from experiments.models import MLP
from experiments.training import Algorithm, Classification, Trainer

# Those of the quickstart, where they were tuned without adversaries.
RATES = {"vote": 1e-3, "mean": 1.0}


class Attack(NamedTuple):
    """A method, and by what its adversaries multiply their gradients, negated."""

    method: str
    factor: float

    @property
    def label(self) -> str:
        """How it is called in the table and the figure."""
        name = {"vote": "signSGD, majority vote", "mean": "EF-signSGD, mean"}
        return f"{name[self.method]}; adversaries send -{self.factor:g} g"


def opposed(adversaries: Any, factor: float, axis_name: str) -> Any:
    """Multiplies the gradients of the first workers by a negative factor."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        against = jax.lax.axis_index(axis_name) < adversaries
        scale = jnp.where(against, -factor, 1.0)
        return jax.tree.map(lambda g: scale.astype(g.dtype) * g, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def algorithm(attack: Attack) -> Algorithm:
    """Returns an optimizer whose adversaries attack before anything is sent.

    What varies from training to training, and is traced, is not its learning rate but
    the number of adversaries: one program serves all.
    """
    optimizers: dict[str, Callable[..., optax.GradientTransformation]] = {
        "vote": ef_optax.sign_sgd, "mean": ef_optax.ef_sign_sgd
    }

    def make(adversaries: Any, axis_name: str) -> optax.GradientTransformation:
        return optax.chain(
            opposed(adversaries, attack.factor, axis_name),
            optimizers[attack.method](RATES[attack.method], axis_name=axis_name),
        )

    return make


@dataclasses.dataclass(frozen=True)
class Config:
    """Majority vote and a mean, with some of the workers against the others."""

    workers: int = field(default=9, metadata={"help": "each on a device of its own"})
    adversaries: tuple[int, ...] = field(
        default=(0, 1, 2, 3, 4, 5), metadata={"help": "how many of the workers"}
    )
    attacks: tuple[str, ...] = field(
        default=("vote=1", "mean=1", "mean=10"),
        metadata={"help": "method=factor; vote or mean, by what g is multiplied"},
    )
    batch_size: int = field(default=72, metadata={"help": "of all workers together"})
    widths: tuple[int, ...] = field(
        default=(128, 64), metadata={"help": "of the hidden layers"}
    )
    epochs: int = field(default=15, metadata={"help": "passes over the data"})
    seeds: tuple[int, ...] = field(
        default=(1, 2, 3), metadata={"help": "of initial values and batches"}
    )
    split_seed: int = field(default=0, metadata={"help": "of the test part"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        check_share(self.batch_size, self.workers)
        bad = [n for n in self.adversaries if not 0 <= n <= self.workers]
        if bad or not self.adversaries:
            raise ValueError(
                f"adversaries must be from 0 to {self.workers}, the number of workers; "
                f"got {', '.join(map(str, bad)) or 'none'}."
            )
        if self.epochs < 1 or not self.seeds or min(self.seeds) < 0:
            raise ValueError(
                "epochs must be at least 1, and seeds not negative; got "
                f"{self.epochs} and {self.seeds}."
            )
        if not self.attacks:
            raise ValueError(
                "attacks must not be empty; each is vote=FACTOR or mean=FACTOR."
            )
        for text in self.attacks:
            read_attack(text)


def read_attack(text: str) -> Attack:
    """Reads "method=factor"."""
    method, _, factor = text.partition("=")
    try:
        attack = Attack(method.strip(), float(factor))
    except ValueError:
        attack = Attack("", 0.0)
    if attack.method not in RATES or not 0 < attack.factor < float("inf"):
        raise ValueError(
            f"an attack is vote=FACTOR or mean=FACTOR, positive; got {text!r}."
        )
    return attack


def run(config: Config) -> dict[Attack, dict[int, list[float]]]:
    """Trains with each number of adversaries; returns test accuracies in percent."""
    worker_devices(config.workers)
    loaded = data.load("digits", None, config.split_seed)
    task = Classification(MLP(config.widths), data.standardize(loaded))
    results = Results(config.results, "adversaries", config)
    attacks = [read_attack(text) for text in config.attacks]
    reached: dict[Attack, dict[int, list[float]]] = {a: {} for a in attacks}
    trainings = len(attacks) * len(config.adversaries) * len(config.seeds)
    with progress(trainings * config.epochs) as bar:
        for attack, accuracies in reached.items():
            bar.set_description(f"{attack.method}, compiling")
            trainer = Trainer(
                algorithm(attack), task, config.workers, config.batch_size
            )
            for count in config.adversaries:
                bar.set_description(f"{attack.method}, {count} adversaries")
                for seed in config.seeds:
                    trained = trainer.train(count, seed, config.epochs, bar.update)
                    scores = task.evaluate(trained.params)
                    accuracies.setdefault(count, []).append(scores["test_accuracy"])
                    results.metric(
                        **attack._asdict(), adversaries=count, seed=seed, **scores,
                        learning_rate=RATES[attack.method], losses=trained.losses,
                    )
    results.figure(_figure(config, reached))
    results.finish(_summary(config, task, reached))
    return reached


def _summary(config: Config, task: Classification, reached: Any) -> str:
    """Returns what was run, and the table."""
    rows = [
        [attack.label, *(spread(values, 1) for values in accuracies.values())]
        for attack, accuracies in reached.items()
    ]
    share, batch = (
        n // config.workers for n in (len(task.data.x_train), config.batch_size)
    )
    steps = config.epochs * (share // batch)
    return (
        f"Test accuracy in %: {config.workers} workers, of which so many adversaries "
        "send a multiple of the opposite of their gradient g; "
        f"{task.parameters} parameters, {config.epochs} epochs ({steps} steps), "
        f"{count_text(len(config.seeds), 'seed')}.\n\n"
        + table(["adversaries", *map(str, config.adversaries)], rows)
        + f"\n\nWith {config.workers} workers fewer than half are at most "
        f"{(config.workers - 1) // 2}. A vote is the same whatever factor g has; "
        "guessing reaches 10%."
    )


def _figure(config: Config, reached: Any) -> Any:
    """Draws test accuracy against the number of adversaries."""
    figure, (axis,) = _plots.panels(1, width=7.2)
    for number, (attack, accuracies) in enumerate(reached.items()):
        by_seed = list(zip(*accuracies.values(), strict=True))
        _plots.curve(axis, list(accuracies), by_seed, number, attack.label)
    axis.axvline(config.workers / 2, color="grey", linewidth=0.8, linestyle=":")
    axis.set(
        xlabel=f"adversaries among {config.workers} workers (dotted: half)",
        ylabel="test accuracy, %", ylim=(0, 100), xticks=config.adversaries,
    )
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure

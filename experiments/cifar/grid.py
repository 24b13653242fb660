"""A grid of learning rates and weight decays: Bernstein et al., Figures A.3 and A.4.

Every algorithm tries the same grid; held-out training images choose a winner, which
then trains on all of them, with several seeds, for the test part. Weight decay is that
of the paper's code: it enters the gradient before momentum and sign.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import models
from experiments._checks import check_not_negative, check_positive, check_seeds
from experiments._claims import Claim
from experiments._results import Results, count_text, spread, table
from experiments.cifar import _grid_claims, _grid_figures
from experiments.cifar._algorithms import ALGORITHMS, algorithm
from experiments.cifar._recipe import check_algorithms, hold_out, on_device
from experiments.cifar._resume import each
from experiments.cifar._setup import Setup
from experiments.cifar._steps import Steps
from experiments.cifar._training import Plan, train
from experiments.training import Algorithm


@dataclasses.dataclass(frozen=True)
class Config(Setup):
    """Searches learning rate and weight decay of each algorithm on one grid."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = _grid_claims.CLAIMS

    train_images: int = 3_500
    test_images: int = 2_000
    epochs: int = 4
    validation: int = field(default=1_000, metadata={
        "help": "how many of the training images to hold out and choose by"})
    batch_size: int = field(default=32, metadata={"help": "of all trainings"})
    algorithms: tuple[str, ...] = field(
        default=("sgdm", "signum", "adam"),
        metadata={"help": f"some of {', '.join(ALGORITHMS)}"},
    )
    learning_rates: tuple[float, ...] = field(
        default=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
        metadata={"help": "to try, as they are"},
    )
    weight_decays: tuple[float, ...] = field(
        default=(1e-4, 1e-3, 1e-2, 1e-1), metadata={"help": "to try"}
    )
    seed: int = field(default=11, metadata={
        "help": "of the grid, not among those of the winners"})
    test_epochs: int = field(default=8, metadata={"help": "of the winners"})
    seeds: tuple[int, ...] = field(
        default=(1, 2, 3), metadata={"help": "of the winners"}
    )
    evaluate_every: int = field(default=1, metadata={
        "help": "epochs between the winners' evaluations on the test part"})
    points: float = field(default=3.0, metadata={
        "help": "between the winners' test accuracies, see the claim"})
    margin: float = field(default=0.1, metadata={
        "help": "of rank correlations, see the claim"})
    high: float = field(default=5.0, metadata={
        "help": "points below the best that are still very high-scoring"})
    stable: float = field(default=0.5, metadata={
        "help": "of the way from guessing to the best, see the claim"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        super().__post_init__()
        check_algorithms(self.algorithms, dict.fromkeys(self.algorithms, 1.0))
        check_seeds(self.seeds)
        check_positive(
            self, "batch_size", "validation", "test_epochs", "evaluate_every"
        )
        check_positive(self, "learning_rates")
        check_not_negative(self, "weight_decays")
        if self.seed in self.seeds or self.seed < 0:
            raise ValueError(
                f"seed must not be negative, nor among seeds; got {self.seed}."
            )


class Job(NamedTuple):
    """One training."""

    stage: str
    algorithm: str
    learning_rate: float
    weight_decay: float
    seed: int


class Lab:
    """Data and compiled functions."""

    def __init__(self, config: Config):
        self._config = config
        self._steps: dict[str, Steps] = {}

    def train(self, job: Job, tick: Callable[[], Any]) -> dict[str, Any]:
        """Trains once; returns the values of its line."""
        config = self._config
        if not self._steps:
            self._prepare()
        search = job.stage == "grid"
        recipe = config.recipe(
            epochs=config.epochs if search else config.test_epochs,
            evaluate_every=config.epochs if search else config.evaluate_every,
            checkpoint_every=0,
        )
        # The plan of the recipe would scale the rate with the batch.
        plan = recipe.plan(config.batch_size, 1.0, job.seed)._replace(
            learning_rate=job.learning_rate
        )
        trained = train(
            self._steps[job.algorithm], decayed(plan, job.weight_decay),
            *(self._held if search else self._whole), after_epoch=tick,
        )
        names = ("train_loss", "test_loss", "test_accuracy")
        return {"guessing": self._guessing} | {
            name: trained.column(name) for name in names
        }

    def _prepare(self) -> None:
        config = self._config
        images = config.recipe().load()
        self._whole = on_device(images)
        self._held = on_device(hold_out(images, config.validation))
        self._guessing = 100 / images.classes
        network = models.build(config.model, images.classes)
        # Weight decay is traced: one program serves the whole grid.
        self._steps = {
            name: Steps(network, of_pair(name), 0.0, config.augmented, densities=False)
            for name in config.algorithms
        }


def of_pair(name: str) -> Algorithm:
    """Returns an algorithm whose rate is a pair: learning rate and weight decay."""

    def make(pair: Any, axis_name: str | None) -> Any:
        # The first state is made with a single 0.
        rate, decay = jnp.broadcast_to(jnp.asarray(pair), (2,))
        return algorithm(name, decay)(rate, axis_name)

    return make


def decayed(plan: Plan, weight_decay: float) -> Plan:
    """Returns a plan whose rate is a pair: learning rate and weight decay."""

    class Decayed(Plan):
        def rate(self, epoch: int) -> Any:
            return np.array([Plan.rate(self, epoch), weight_decay], np.float32)

    return Decayed(*plan)


def run(config: Config) -> dict[str, Job]:
    """Searches, tests, tabulates and draws; returns the winners' first test runs."""
    results = Results(config.results, "cifar_grid", config, resume=True)
    lab = Lab(config)
    cells = [
        Job("grid", name, rate, decay, config.seed)
        for rate in config.learning_rates for decay in config.weight_decays
        for name in config.algorithms
    ]
    done = each(results, cells, config.part, lab.train, config.epochs)
    shape = len(config.learning_rates), len(config.weight_decays)
    maps = {
        name: np.array([last_accuracy(line) for job, line in done.items()
                        if job.algorithm == name]).reshape(shape)
        for name in config.algorithms
    }
    winners: dict[str, Job] = {}
    for name, merits in maps.items():
        row, column = np.unravel_index(np.argmax(merits), shape)
        winners[name] = Job(
            "test", name, config.learning_rates[row], config.weight_decays[column],
            config.seeds[0],
        )
    tests = each(
        results,
        [job._replace(seed=seed) for seed in config.seeds for job in winners.values()],
        config.part, lab.train, config.test_epochs,
    )
    by_name = {
        name: [line for job, line in tests.items() if job.algorithm == name]
        for name in winners
    }
    accuracies = {name: [last_accuracy(line) for line in lines]
                  for name, lines in by_name.items()}
    guessing = next(iter(tests.values()))["guessing"]
    for key, verdict in _grid_claims.judged(config, maps, accuracies, guessing).items():
        results.verdict(key, *verdict)
    results.figure(_grid_figures.heat_maps(config, maps))
    results.figure(_grid_figures.winners(config, by_name), "winners")
    results.finish(_summary(config, maps, winners, accuracies))
    return winners


def last_accuracy(line: dict[str, Any]) -> float:
    """Returns the last accuracy of a training; that of guessing if it diverged."""
    accuracy = float(np.array(line["test_accuracy"], float)[-1])
    return accuracy if np.isfinite(accuracy) else line["guessing"]


def _summary(
    config: Config, maps: dict[str, np.ndarray], winners: dict[str, Job],
    tests: dict[str, list[float]],
) -> str:
    """Returns what was run, and the tables."""
    rows = [
        [ALGORITHMS[name].label, f"{job.learning_rate:g}", f"{job.weight_decay:g}",
         f"{maps[name].max():.1f}", spread(tests[name])]
        for name, job in winners.items()
    ]
    header = ["algorithm", "rate", "weight decay", "validation acc. %", "test acc. %"]
    drops = " and ".join(f"{drop:g}" for drop in config.drops)
    text = (
        f"{config.data_text}, {config.augmented_text}, batch {config.batch_size}, "
        "learning rate divided by "
        f"{config.drop_factor:g} after parts {drops} of all epochs, momentum 0.9. The "
        f"grid: {count_text(config.epochs, 'epoch')}, the last {config.validation} "
        "training images choose, one seed. The winners: "
        f"{count_text(config.test_epochs, 'epoch')} on all training images, "
        f"{count_text(len(config.seeds), 'seed')}.\n\n{table(header, rows)}\n\n"
        "Accuracies of the last epoch, on the test part mean ± standard deviation "
        "over seeds. A training that diverged counts with the accuracy of guessing. "
        "Weight decay is added to the gradient before momentum and sign, as in the "
        "paper's code for momentum above 0."
    )
    header = ["learning rate", *(f"{decay:g}" for decay in config.weight_decays)]
    for name, accuracies in maps.items():
        rows = [
            [f"{rate:g}", *(f"{value:.1f}" for value in row)]
            for rate, row in zip(config.learning_rates, accuracies, strict=True)
        ]
        text += (
            f"\n\n{ALGORITHMS[name].label}, validation accuracy in % by learning rate "
            f"and weight decay:\n\n{table(header, rows)}"
        )
    return text

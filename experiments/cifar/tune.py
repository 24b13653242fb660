"""The search for learning rates: Karimireddy et al., appendix A.3 and Table 2."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import ClassVar

import numpy as np

from experiments import _plots
from experiments._checks import check_least
from experiments._claims import Claim
from experiments._results import Results, table
from experiments.cifar._algorithms import ALGORITHMS
from experiments.cifar._recipe import REFERENCE_BATCH, Recipe, check_algorithms
from experiments.cifar._resume import read_part
from experiments.cifar._runs import Ended, Job, run_all
from experiments.cifar.comparison import GRID

TABLE2 = Claim(
    "table2", "K", "Table 2, appendix A.3",
    "Of nine learning rates from 1e-5 to 10 the best at a batch of 128 are 1.0e-2 for "
    "SGDm, 5.6e-2 for scaled signSGD and for EF-signSGD, and 3.2e-4 (ResNet-18) or "
    "5.6e-5 (VGG19) for signSGDm.",
    "scaled signSGD's and EF-signSGD's best rates are at most {near:g} steps of the "
    "grid apart and not below SGDm's, and signSGDm's is at least {below:g} times "
    "smaller than SGDm's",
    reduced="a ResNet of 78,042 parameters on 16 x 16 pixels, 4,000 training images "
    "of CIFAR-10, 5 epochs instead of 100, one seed, and the choice is by accuracy on "
    "1,000 held-out training images, not by test loss",
)


@dataclasses.dataclass(frozen=True)
class Config(Recipe):
    """Searches the learning rate of each algorithm, the same constant one throughout.

    With the clean protocol by accuracy on the last images of the training part, with
    the original one by test loss, as in the paper.
    """

    CLAIMS: ClassVar[tuple[Claim, ...]] = (TABLE2,)

    train_images: int = 5_000
    model: str = "resnet8_16"
    epochs: int = 5
    drops: tuple[float, ...] = ()
    densities: bool = False
    evaluate_every: int = 5
    checkpoint_every: int = 0
    validation: int = field(default=1_000, metadata={
        "help": "how many training images to hold out and choose by"})
    algorithms: tuple[str, ...] = field(
        default=("sgdm", "scaled_sign", "signum", "ef_sign", "adam"),
        metadata={"help": f"some of {', '.join(ALGORITHMS)}"},
    )
    grid: tuple[float, ...] = field(
        default=GRID, metadata={"help": "learning rates to try"}
    )
    batch_size: int = field(default=REFERENCE_BATCH, metadata={"help": "to tune at"})
    seed: int = field(default=11, metadata={
        "help": "of initial values and batches, not among those of the comparison"})
    near: int = field(default=1, metadata={"help": "steps of the grid, see the claim"})
    below: float = field(default=10.0, metadata={"help": "factor, see the claim"})
    part: str = field(default="0/1", metadata={
        "help": "i/n: run only each n-th training, from the i-th on, and no summary",
        "place": True})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        super().__post_init__()
        check_algorithms(self.algorithms, dict.fromkeys(self.algorithms, 1.0))
        read_part(self.part)
        if not self.grid or min(self.grid) <= 0:
            raise ValueError(f"grid must be of positive rates; got {self.grid}.")
        if self.protocol == "clean":
            check_least(self, 1, "validation")
        self.plan(self.batch_size, 1.0, self.seed)


def run(config: Config) -> dict[str, float]:
    """Tries every rate with every algorithm; returns the best ones."""
    results = Results(config.results, "cifar_tune", config, resume=True)
    scale = REFERENCE_BATCH / config.batch_size  # a Job's rate is of that batch
    jobs = [
        Job(name, config.batch_size, rate * scale, config.seed)
        for rate in config.grid for name in config.algorithms
    ]
    held = config.validation if config.protocol == "clean" else 0
    ended = run_all(config, results, jobs, config.part, held)
    merits = {
        name: [_merit(one, config) for one in ended if one.job.algorithm == name]
        for name in config.algorithms
    }
    best = {name: config.grid[int(np.argmax(m))] for name, m in merits.items()}
    results.figure(_figure(config, merits))
    results.verdict("table2", *_table2(config, best))
    results.finish(_summary(config, merits, best))
    return best


def _merit(one: Ended, config: Config) -> float:
    """Returns what to choose by, greater is better."""
    if config.protocol == "clean":
        return one.last("test_accuracy")
    loss = one.last("test_loss")
    return -loss if np.isfinite(loss) else -np.inf


def _table2(config: Config, best: dict[str, float]) -> tuple[bool, str, str]:
    number = ", ".join(f"{ALGORITHMS[n].label} {rate:.2g}" for n, rate in best.items())
    if not {"sgdm", "scaled_sign", "signum", "ef_sign"} <= best.keys():
        return False, number, "not all four algorithms were tuned"
    places = {name: config.grid.index(rate) for name, rate in best.items()}
    holds = (
        abs(places["scaled_sign"] - places["ef_sign"]) <= config.near
        and min(best["scaled_sign"], best["ef_sign"]) >= best["sgdm"]
        and best["sgdm"] >= config.below * best["signum"]
    )
    return holds, number, "" if holds else (
        "the best rates lie otherwise on this network and this short a training"
    )


def _summary(
    config: Config, merits: dict[str, list[float]], best: dict[str, float]
) -> str:
    """Returns the table of the search, and the options that use what it found."""
    clean = config.protocol == "clean"
    what = (
        f"Accuracy in % on the last {config.validation} training images"
        if clean else "Test loss"
    )
    rows = [
        [ALGORITHMS[name].label, f"{best[name]:.2g}",
         *(f"{m:.1f}" if clean else f"{-m:.3f}" for m in several)]
        for name, several in merits.items()
    ]
    header = ["algorithm", "best", *(f"{rate:.2g}" for rate in config.grid)]
    chosen = ",".join(f"{name}={rate:.6g}" for name, rate in best.items())
    return (
        f"{config.text} {what} by learning rate at a batch of {config.batch_size}, "
        f"one seed:\n\n{table(header, rows)}\n\n--learning-rates {chosen}"
    )


def _figure(config: Config, merits: dict[str, list[float]]) -> _plots.Figure:
    """Draws what was chosen by against the learning rate."""
    clean = config.protocol == "clean"
    figure, (axis,) = _plots.panels(1, width=7.2)
    for number, (name, several) in enumerate(merits.items()):
        values = several if clean else [-m for m in several]
        _plots.curve(axis, config.grid, [values], number, ALGORITHMS[name].label)
    axis.set(
        xlabel="learning rate", xscale="log",
        ylabel="accuracy on held-out images, %" if clean else "test loss",
    )
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure

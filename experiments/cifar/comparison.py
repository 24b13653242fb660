"""Algorithms side by side at several batch sizes: Karimireddy et al., Section 6.

`cifar` trains what its options say; `cifar_small` is the same question at the scale of
two cores; `cifar100_resnet18` and `cifar10_vgg19` are the paper's own configurations.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import ClassVar

import numpy as np

from experiments._checks import check_positive, check_seeds
from experiments._claims import Claim
from experiments._results import Results, count_text, spread, table
from experiments.cifar import _claims, _figures
from experiments.cifar._algorithms import ALGORITHMS
from experiments.cifar._recipe import (
    REFERENCE_BATCH,
    Recipe,
    check_algorithms,
)
from experiments.cifar._resume import read_part
from experiments.cifar._runs import Ended, Job, groups, run_all
from experiments.cifar._task import DatasetName
from experiments.cifar._training import Protocol

# Table 2 of the paper, as powers of its grid: 9 values from 1e-5 to 10.
GRID = tuple(float(rate) for rate in np.logspace(-5, 1, 9))


@dataclasses.dataclass(frozen=True)
class Config(Recipe):
    """Trains a network for images with several algorithms, batch sizes and seeds."""

    STUDY: ClassVar[str] = "cifar"
    CLAIMS: ClassVar[tuple[Claim, ...]] = ()

    algorithms: tuple[str, ...] = field(
        default=("sgdm", "scaled_sign", "signum", "ef_sign"),
        metadata={"help": f"some of {', '.join(ALGORITHMS)}"},
    )
    batch_sizes: tuple[int, ...] = field(
        default=(128, 32, 8), metadata={"help": "of all workers together"}
    )
    learning_rates: dict[str, float] = field(
        default_factory=lambda: {
            "sgdm": 1e-2, "scaled_sign": GRID[5], "signum": GRID[2],
            "ef_sign": GRID[5], "adam": 1e-3,
        },
        metadata={"help": f"at a batch of {REFERENCE_BATCH}; others in proportion"},
    )
    seeds: tuple[int, ...] = field(
        default=(1, 2, 3), metadata={"help": "of initial values and batches"}
    )
    opening: float = field(default=3.0, metadata={
        "help": "of the claims: points that the gap of scaled sign must grow by from "
                "the largest batch to the smallest"})
    close: float = field(default=2.0, metadata={
        "help": "of the claims: points that EF-signSGD may be below SGDm"})
    dense: float = field(default=0.13, metadata={
        "help": "of the claims: what φ(γg + e) must exceed"})
    part: str = field(default="0/1", metadata={
        "help": "i/n: run only each n-th training, from the i-th on, and no summary; "
                "so n processes share the work", "place": True})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        super().__post_init__()
        check_algorithms(self.algorithms, self.learning_rates)
        read_part(self.part)
        check_seeds(self.seeds)
        check_positive(self, "batch_sizes")
        for batch_size in self.batch_sizes:
            self.plan(batch_size, 1.0, 0)

    def jobs(self) -> list[Job]:
        """Returns all trainings, the seeds one after the other."""
        return [
            Job(name, batch_size, self.learning_rates[name], seed)
            for seed in self.seeds
            for batch_size in self.batch_sizes
            for name in self.algorithms
        ]


@dataclasses.dataclass(frozen=True)
class Small(Config):
    """Tables 3 and 4's question with a small ResNet, for two cores."""

    STUDY: ClassVar[str] = "cifar_small"
    CLAIMS: ClassVar[tuple[Claim, ...]] = _claims.SMALL

    train_images: int = 5_000
    test_images: int = 5_000
    model: str = "resnet8_16"
    epochs: int = 30
    evaluate_every: int = 3
    checkpoint_every: int = 5
    algorithms: tuple[str, ...] = ("sgdm", "scaled_sign", "signum", "ef_sign", "adam")
    # The best of `cifar_tune`.
    learning_rates: dict[str, float] = field(
        default_factory=lambda: {
            "sgdm": GRID[6], "scaled_sign": GRID[7], "signum": GRID[3],
            "ef_sign": GRID[7], "adam": GRID[3],
        }
    )


@dataclasses.dataclass(frozen=True)
class Resnet20(Config):
    """Figure 2's densities with ResNet-20 on all of CIFAR-10; hours on two cores."""

    STUDY: ClassVar[str] = "cifar_resnet20"
    CLAIMS: ClassVar[tuple[Claim, ...]] = _claims.RESNET20

    model: str = "resnet20"
    epochs: int = 8
    batch_sizes: tuple[int, ...] = (128,)
    seeds: tuple[int, ...] = (1,)


@dataclasses.dataclass(frozen=True)
class Resnet18(Config):
    """Figures 4 and 6, Tables 1 to 3: ResNet-18 on CIFAR-100. Needs an accelerator."""

    STUDY: ClassVar[str] = "cifar100_resnet18"
    CLAIMS: ClassVar[tuple[Claim, ...]] = _claims.RESNET18

    dataset: DatasetName = "cifar100"
    protocol: Protocol = "original"


@dataclasses.dataclass(frozen=True)
class Vgg19(Config):
    """Figures 2 and 7, Tables 2 and 4: VGG19 on CIFAR-10. Needs an accelerator."""

    STUDY: ClassVar[str] = "cifar10_vgg19"
    CLAIMS: ClassVar[tuple[Claim, ...]] = _claims.VGG19

    model: str = "vgg19"
    protocol: Protocol = "original"
    learning_rates: dict[str, float] = field(
        default_factory=lambda: {
            "sgdm": 1e-2, "scaled_sign": GRID[5], "signum": GRID[1],
            "ef_sign": GRID[5], "adam": 1e-3,
        }
    )


def run(config: Config) -> list[Ended]:
    """Trains, tabulates and draws; returns every training."""
    results = Results(config.results, config.STUDY, config, resume=True)
    ended = run_all(config, results, config.jobs(), config.part)
    results.figure(_figures.curves(ended, ALGORITHMS))
    if config.densities and config.workers == 1:
        results.figure(_figures.densities(ended, ALGORITHMS), "densities")
    for key, (holds, number, why) in _claims.judged(config, ended).items():
        results.verdict(key, holds, number, why)
    results.finish(_summary(config, ended))
    return ended


def _summary(config: Config, ended: list[Ended]) -> str:
    """Returns what was run, and the tables."""
    rows = []
    for (name, batch_size), done in groups(ended):
        broken = sum(one.diverged for one in done)
        rows.append([
            ALGORITHMS[name].label, str(batch_size),
            f"{done[0].job.learning_rate * batch_size / REFERENCE_BATCH:.3g}",
            *(spread([one.last(column) for one in done])
              for column in ("train_accuracy", "test_accuracy")),
            f"{np.mean([one.best('test_accuracy') for one in done]):.2f}",
            *(spread([one.mean(column) for one in done], 3)
              for column in ("density", "corrected_density")),
            str(broken) if broken else "",
            f"{np.mean([one.mean('seconds') for one in done]):.1f}",
        ])
    header = ["algorithm", "batch", "rate", "train acc. %", "test acc. %", "best epoch",
              "φ(g)", "φ(γg + e)", "diverged", "s/epoch"]
    return (
        f"{config.text} {count_text(len(config.seeds), 'seed')}.\n\n"
        + table(header, rows)
        + "\n\nMean ± standard deviation over seeds. Accuracies of the last epoch, "
        "train accuracy as met during it; best epoch: mean over seeds of the greatest "
        "test accuracy. φ: Lemma 8's layer-wise ratio, mean over all steps. Learning "
        f"rates are in proportion to the batch. {broken_text(ended)}"
    )


def broken_text(ended: list[Ended]) -> str:
    """Says how trainings count whose loss stopped being finite, if there were any."""
    if not any(one.diverged for one in ended):
        return "No training diverged."
    return "Diverged trainings count with the accuracy of guessing."

"""Density of gradient and noise during training: Bernstein et al., Figures 1 and 2.

At the beginning of every epoch a full pass over the data at that fixed point gives the
mean g of the stochastic gradient and its standard deviations σ. `cifar_noise` is for
two cores; `cifar_noise_resnet20` is the paper's own configuration.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

import numpy as np

from experiments._checks import (
    check_given,
    check_least,
    check_positive,
    check_seeds,
)
from experiments._claims import Claim
from experiments._results import Results, count_text, spread, table
from experiments.cifar import _noise_claims, _noise_figures
from experiments.cifar._algorithms import ALGORITHMS
from experiments.cifar._noise_claims import Series
from experiments.cifar._noise_lab import Job, Lab
from experiments.cifar._recipe import check_algorithms
from experiments.cifar._resume import each
from experiments.cifar._setup import Setup


@dataclasses.dataclass(frozen=True)
class Config(Setup):
    """Measures densities of gradient and noise, and the noise of single parameters."""

    STUDY: ClassVar[str] = "cifar_noise"
    CLAIMS: ClassVar[tuple[Claim, ...]] = _noise_claims.SMALL

    train_images: int = 3_200
    test_images: int = 2_000
    epochs: int = 15
    batch_size: int = field(default=128, metadata={
        "help": "of the training, and of the stochastic gradient that is measured"})
    algorithms: tuple[str, ...] = field(
        default=("sgdm", "signum", "adam"),
        metadata={"help": f"some of {', '.join(ALGORITHMS)}"},
    )
    learning_rates: dict[str, float] = field(
        default_factory=lambda: {"sgdm": 0.1, "signum": 1e-3, "adam": 1e-3},
        metadata={"help": "of each algorithm"},
    )
    weight_decays: dict[str, float] = field(
        default_factory=lambda: {"sgdm": 1e-4, "signum": 1e-5, "adam": 1e-4},
        metadata={"help": "of each algorithm; not in the gradient that is measured"},
    )
    seeds: tuple[int, ...] = field(
        default=(1, 2), metadata={"help": "of initial values and batches"}
    )
    measure_every: int = field(default=1, metadata={
        "help": "epochs between measurements, each a pass over the data"})
    checkpoint_every: int = field(default=0, metadata={
        "help": "epochs between checkpoints; 0: none", "place": True})
    histogram_after: float = field(default=50 / 160, metadata={
        "help": "the part of all epochs after which noise is drawn"})
    parameters: int = field(default=30, metadata={
        "help": "how many randomly chosen parameters to draw the noise of; the figure "
                "shows the first three"})
    parameter_seed: int = field(default=0, metadata={
        "help": "of which parameters; the same for all algorithms"})
    samples: int = field(default=250, metadata={
        "help": "at least so many batches a histogram, of as many passes as it takes; "
                "with the first seed"})
    dense: float = field(default=0.1, metadata={
        "help": "the least density that counts as dense"})
    same_order: float = field(default=4.0, metadata={
        "help": "the factor within which densities are of the same order"})
    coupled: float = field(default=0.5, metadata={
        "help": "the least correlation that counts as coupled"})
    jump: float = field(default=2.0, metadata={
        "help": "by what a change must exceed others to be a jump"})
    settling: float = field(default=0.2, metadata={
        "help": "the first part of all epochs, whose changes are not counted"})
    level: float = field(default=0.05, metadata={
        "help": "of the test for unimodality"})
    skewness: float = field(default=0.5, metadata={
        "help": "up to which a distribution is approximately symmetric"})
    share: float = field(default=0.9, metadata={
        "help": "of the parameters that must look unimodal, and symmetric"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        super().__post_init__()
        check_algorithms(self.algorithms, self.learning_rates)
        check_given("weight_decays", self.weight_decays, self.algorithms)
        check_seeds(self.seeds)
        check_positive(self, "batch_size", "measure_every", "samples", "same_order")
        check_least(self, 3, "parameters")
        if not 0 <= self.histogram_after < 1:
            raise ValueError(
                f"histogram_after must be in [0, 1); got {self.histogram_after}."
            )

    @property
    def histogram_epoch(self) -> int:
        """How many epochs there were when the noise is drawn."""
        return min(round(self.histogram_after * self.epochs), self.epochs - 1)


@dataclasses.dataclass(frozen=True)
class Resnet20(Config):
    """Figures 1 and 2: ResNet-20 on all of CIFAR-10. Needs an accelerator."""

    STUDY: ClassVar[str] = "cifar_noise_resnet20"
    CLAIMS: ClassVar[tuple[Claim, ...]] = _noise_claims.FULL

    train_images: int = 0
    test_images: int = 0
    model: str = "resnet20"
    epochs: int = 160
    checkpoint_every: int = 5
    seeds: tuple[int, ...] = (1, 2, 3)
    samples: int = 390


def run(config: Config) -> list[Series]:
    """Trains and measures, tabulates and draws; returns the densities."""
    results = Results(config.results, config.STUDY, config, resume=True)
    lab = Lab(config, results)
    jobs = [Job("training", name, seed)
            for seed in config.seeds for name in config.algorithms]
    done = each(
        results, jobs, config.part, lab.train, config.epochs, after=lab.forget
    )
    series = [lab.series(job) for job in jobs]
    drawn = {job.algorithm: line for job in jobs for line in lab.of(job)
             if "noise_samples" in line}
    results.figure(_noise_figures.densities(config, series))
    if drawn:
        results.figure(_noise_figures.histograms(config, drawn), "noise")
    shapes = {name: (line["skewness"], line["unimodality_p"])
              for name, line in drawn.items()}
    for key, verdict in _noise_claims.judged(config, series, shapes).items():
        results.verdict(key, *verdict)
    results.finish(_summary(config, lab, done, drawn))
    return series


def _summary(
    config: Config, lab: Lab, done: dict[Job, dict[str, Any]],
    drawn: dict[str, dict[str, Any]],
) -> str:
    """Returns what was run, and the tables."""
    rows, shapes = [], []
    for name in config.algorithms:
        jobs = [job for job in done if job.algorithm == name]
        several = [lab.series(job) for job in jobs]
        layers = [np.array([line["layerwise"] for line in lab.of(job)], float)
                  for job in jobs]
        accuracy = [float(np.array(done[job]["test_accuracy"], float)[-1])
                    for job in jobs]
        rows.append([
            ALGORITHMS[name].label, f"{config.learning_rates[name]:g}",
            f"{config.weight_decays[name]:g}",
            spread([float(one.gradient.mean()) for one in several], 3),
            spread([float(one.noise.mean()) for one in several], 3),
            spread([float((one.noise / one.gradient).mean()) for one in several]),
            spread([float(one.mean()) for one in layers], 3), spread(accuracy),
        ])
        if name in drawn:
            skew, p = (np.array(drawn[name][key], float)
                       for key in ("skewness", "unimodality_p"))
            shapes.append([
                ALGORITHMS[name].label, str(len(skew)),
                f"{np.median(np.abs(skew)):.2f}", f"{np.abs(skew).max():.2f}",
                f"{np.median(p):.2f}", f"{p.min():.3f}",
            ])
    header = ["algorithm", "rate", "weight decay", "φ(g)", "φ(σ)", "R2",
              "layer-wise", "test acc. %"]
    drops = " and ".join(str(round(drop * config.epochs)) for drop in config.drops)
    every = "every" if config.measure_every == 1 else f"each {config.measure_every}th"
    text = (
        f"{config.data_text}, {config.augmented_text}, batch {config.batch_size}, "
        f"{config.epochs} epochs, "
        f"learning rate divided by {config.drop_factor:g} after {drops}; "
        f"{count_text(len(config.seeds), 'seed')}. At the beginning of {every} epoch a "
        "full pass gives mean g and standard deviations σ of the minibatch gradient, "
        "without weight decay, all parameters one vector.\n\n" + table(header, rows)
        + "\n\nMean over the epochs of a training, ± standard deviation over seeds. "
        "Layer-wise: Lemma 8's ratio of g of Karimireddy et al., each tensor with a "
        "scale of its own. Weight decay is added to the gradient before "
        "momentum, as in the paper's code; the networks start from He et al.'s initial "
        "values."
    )
    if shapes:
        count = len(next(iter(drawn.values()))["noise_samples"][0])
        header = ["algorithm", "parameters", "median |skewness|", "greatest",
                  "median p", "least"]
        text += (
            "\n\nNoise of single parameters, after "
            f"{count_text(config.histogram_epoch, 'epoch')} with seed "
            f"{config.seeds[0]}, {count} batches each; p of unimodality, small "
            f"where there is more than one mode:\n\n{table(header, shapes)}"
        )
    return text

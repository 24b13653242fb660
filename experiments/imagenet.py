"""Bernstein et al., Figure 3: ImageNet. A configuration; nothing trains it here.

It states what the paper and its code ran, so that whoever has the data and the
accelerators knows what to run, and what would count as reproduced.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import ClassVar

from experiments._claims import Claim
from experiments._results import Results, table

WHY = (
    "ImageNet's 138 GB and some hundred epochs of ResNet-50 on it need a cluster of "
    "accelerators"
)

CLAIMS = (
    Claim(
        "figure3", "B", "Figure 3",
        "On ImageNet Signum reaches about the test accuracy of Adam with ResNet-50 v2, "
        "about 2 points below SGD with a well-tuned weight decay.",
        "top-1 test accuracy of Signum at most {tolerance:g} points from Adam's and at "
        "most {gap:g} below SGD's",
        not_run=WHY,
    ),
    Claim(
        "figure2_imagenet", "B", "Figure 2, bottom row",
        "Noise of single coordinates of ResNet-50's gradient at a batch of 256 looks "
        "Gaussian at epoch 50.",
        "absolute skewness of randomly chosen coordinates below {skewness:g}",
        not_run=WHY,
    ),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Signum, Adam and SGD train ResNet-50 v2 on ImageNet: stated, not run."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = CLAIMS

    model: str = field(default="resnet50_v2", metadata={"help": "of He et al. 2016"})
    batch_size: int = field(default=256, metadata={"help": "of all workers together"})
    epochs: int = field(default=100, metadata={
        "help": "the figure shows as many; augmentation stops at 95"})
    augmented_until: int = field(default=95, metadata={
        "help": "epoch from which images are no longer augmented"})
    momentum: float = field(default=0.9, metadata={"help": "of all three"})
    learning_rates: dict[str, float] = field(
        default_factory=lambda: {"signum": 1e-4, "adam": 1e-3, "sgd": 0.1},
        metadata={"help": "those of the paper's code"},
    )
    weight_decays: dict[str, float] = field(
        default_factory=lambda: {"signum": 1e-5, "adam": 1e-5, "sgd": 1e-4},
        metadata={"help": "those of the paper's code"},
    )
    tolerance: float = field(default=1.0, metadata={"help": "points, see the claim"})
    gap: float = field(default=3.0, metadata={"help": "points, see the claim"})
    skewness: float = field(default=0.5, metadata={"help": "see the claim"})
    results: str = field(default="results", metadata={"help": "where files go"})


def run(config: Config) -> None:
    """Writes down what would be run."""
    results = Results(config.results, "imagenet", config)
    rows = [
        [name, f"{rate:g}", f"{config.weight_decays.get(name, 0):g}",
         f"{config.momentum:g}"]
        for name, rate in config.learning_rates.items()
    ]
    for name, rate, decay, momentum in rows:
        results.metric(
            algorithm=name, learning_rate=float(rate), weight_decay=float(decay),
            momentum=float(momentum), run=False,
        )
    results.finish(
        f"Not run: {WHY}. {config.model}, batches of {config.batch_size}, "
        f"{config.epochs} epochs, augmented until epoch {config.augmented_until}:\n\n"
        + table(["algorithm", "rate", "weight decay", "momentum"], rows)
    )

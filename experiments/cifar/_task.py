"""Data, network and schedule: what all studies on CIFAR have."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Literal

from experiments import models
from experiments._checks import check_least, check_not_negative

DatasetName = Literal["cifar10", "cifar100", "synthetic"]


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, network and schedule."""

    dataset: DatasetName = field(
        default="cifar10",
        metadata={"help": "CIFAR, or noisy patterns that need no files"},
    )
    data_dir: str | None = field(default=None, metadata={
        "help": "where CIFAR's binary files or pickles are; none: download",
        "place": True})
    note: str = field(default="", metadata={"help": "on the data, for the summary"})
    train_images: int = field(default=0, metadata={
        "help": "only the first so many of the training part; 0: all"})
    test_images: int = field(default=0, metadata={
        "help": "only the first so many of the test part; 0: all"})
    model: str = field(default="resnet8_16", metadata={
        "help": f"one of {', '.join(models.MODELS)}"})
    augmented: bool = field(default=True, metadata={
        "help": "random crops and mirror images"})
    epochs: int = field(default=160, metadata={"help": "passes over the data"})
    drops: tuple[float, ...] = field(default=(0.5, 0.75), metadata={
        "help": "after which parts of all epochs the learning rate falls"})
    drop_factor: float = field(default=10.0, metadata={
        "help": "by what it is divided there"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        models.build(self.model, 10)
        check_least(self, 1, "epochs")
        check_not_negative(self, "train_images", "test_images")
        if any(not 0 < drop < 1 for drop in self.drops):
            raise ValueError(
                f"drops are parts of all epochs, in (0, 1); got {self.drops}."
            )

    @property
    def data_text(self) -> str:
        """Describes network and data."""
        count = f"the first {self.train_images}" if self.train_images else "all"
        note = f" ({self.note})" if self.note else ""
        return f"{self.model} on {count} training images of {self.dataset}{note}"

    @property
    def augmented_text(self) -> str:
        """Describes what happens to the images."""
        return "cropped and mirrored" if self.augmented else "not augmented"

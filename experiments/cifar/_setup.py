"""What the studies after Bernstein et al. have in common beside a `Recipe`.

There each algorithm has a weight decay of its own, so that a study is no recipe itself
but makes one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any

from experiments import models
from experiments.cifar._recipe import DatasetName, Recipe
from experiments.cifar._runs import read_part


@dataclasses.dataclass(frozen=True)
class Setup:
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
    part: str = field(default="0/1", metadata={
        "help": "i/n: run only each n-th training, from the i-th on, and no summary; "
                "so n processes share the work", "place": True})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        self.recipe()
        read_part(self.part)

    def recipe(self, **changes: Any) -> Recipe:
        """Returns the recipe, without a weight decay and without its densities."""
        shared = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(Recipe) if hasattr(self, field.name)
        }
        fixed = {"weight_decay": 0.0, "densities": False}
        return Recipe(**{**fixed, **shared, **changes})

    @property
    def data_text(self) -> str:
        """Describes data and network."""
        count = f"the first {self.train_images}" if self.train_images else "all"
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.model} on {count} training images of {self.dataset}{note}, "
            f"{'cropped and mirrored' if self.augmented else 'not augmented'}"
        )


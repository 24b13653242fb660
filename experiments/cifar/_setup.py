"""What the studies after Bernstein et al. have in common beside a `Recipe`.

There each algorithm has a weight decay of its own, so that a study is no recipe itself
but makes one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any

from experiments.cifar._recipe import Recipe
from experiments.cifar._resume import read_part
from experiments.cifar._task import Task


@dataclasses.dataclass(frozen=True)
class Setup(Task):
    """Data, network and schedule, and how the work is shared."""

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

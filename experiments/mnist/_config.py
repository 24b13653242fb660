"""The configuration of the study of MNIST, and what the paper claims of it."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import field
from typing import ClassVar, Literal, NamedTuple

from experiments._checks import check_least
from experiments._claims import Claim

Batches = Literal["standard", "split"]
METHODS = ("signSGD", "SGD")
# Output biases of a digit of each part: the two weights of the histograms.
SHOWN = (0, 5)


class Cell(NamedTuple):
    """What is tuned on its own.

    Attributes:
      batches: how they are drawn.
      width: of the hidden layer.
      batch_size: examples a step.
      method: signSGD or SGD.
    """

    batches: Batches
    width: int
    batch_size: int
    method: str


@dataclasses.dataclass(frozen=True)
class Config:
    """signSGD and SGD on MNIST under fixed budgets of communicated megabytes."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "early_split", "S", "Figure 3",
            "In the beginning of training signSGD is more efficient than SGD when "
            "accuracy is compared against communication; split batches of 128.",
            "within the least of the budgets of {budgets} MB, each method tuned for "
            "it, both mean training and mean test accuracy of signSGD are at least "
            "{ahead:g} points above those of SGD, for batches of {batch_size} at every "
            "width of {widths}",
        ),
        Claim(
            "stall", "S", "Figure 3",
            "On split batches test accuracy does not improve during the second half "
            "of training, while training accuracy grows consistently at a slow pace.",
            "from the middle to the end of signSGD's runs within {long_budget:g} MB "
            "(means over {looks} looks around the middle and in the last tenth) mean "
            "test accuracy grows by less than {stall:g} points; mean training accuracy "
            "grows, and by more than test accuracy",
        ),
        Claim(
            "histograms", "S", "Figure 3",
            "Split batches give multi-modal and asymmetric distributions of stochastic "
            "gradients, for most of the biases, before epochs 5, 25 and 50; signSGD "
            "converges nonetheless.",
            "before each of the epochs {epochs}, in the mean over repetitions, more "
            "than half of the biases have a bimodality coefficient above 5/9 on split "
            "batches, and fewer than half on standard batches with the same "
            "parameters; and training accuracy at the end is at least {converged:g}%",
            figure="figure_gradients.png",
        ),
        Claim(
            "bigger_batch", "S", "Figure 5",
            "Bigger batch size, better convergence, each batch size tuned; standard "
            "batches.",
            "within every budget of {budgets} MB mean training accuracy of signSGD "
            "rises from the least to the greatest batch size of {batch_sizes}, and "
            "from none to the next it falls by more than {tolerance:g} points",
            figure="figure_batches.png",
        ),
        Claim(
            "early_standard", "S", "Figure 5",
            "In the beginning of training signSGD is more efficient than SGD when "
            "accuracy is compared against communication; standard batches.",
            "as for Figure 3, at the first of the widths and every batch size of "
            "{batch_sizes}",
            figure="figure_batches.png",
        ),
        Claim(
            "generalises", "S", "Figure 5",
            "On standard batches test accuracy grows with training accuracy.",
            "from the middle to the end of signSGD's runs within the greatest of the "
            "budgets of {budgets} MB both mean training and mean test accuracy grow, "
            "at every batch size of {batch_sizes}",
            figure="figure_batches.png",
        ),
    )

    data: Literal["mnist", "digits"] = field(
        default="mnist", metadata={"help": "MNIST, or scikit-learn's 1797 digits"}
    )
    data_dir: str | None = field(default=None, metadata={
        "help": "where MNIST's IDX files are, .gz or not; none: fetched",
        "place": True})
    widths: tuple[int, ...] = field(
        default=(64, 32, 128),
        metadata={"help": "of the hidden layer; batch sizes vary at the first"},
    )
    batch_size: int = field(default=128, metadata={"help": "of Figure 3"})
    batch_sizes: tuple[int, ...] = field(
        default=(32, 128, 512), metadata={"help": "of Figure 5"}
    )
    budgets: tuple[float, ...] = field(
        default=(2.0, 8.0, 32.0),
        metadata={"help": "megabytes of gradients sent by the worker; ascending"},
    )
    long_budget: float = field(
        default=150.0,
        metadata={"help": "megabytes, of Figure 3 at the first width only"},
    )
    split_grid: tuple[float, ...] = field(
        default=(1e-4, 1e-3, 1e-2, 0.1, 1.0),
        metadata={"help": "coarse learning rates for split batches"},
    )
    standard_grid: tuple[float, ...] = field(
        default=(1e-3, 1e-2, 0.1, 1.0, 10.0),
        metadata={"help": "coarse learning rates for standard batches"},
    )
    fine: tuple[float, ...] = field(
        default=(0.2, 0.5, 2.0, 5.0),
        metadata={"help": "times the best coarse rate: the fine grid"},
    )
    zero: Literal["abstain", "positive"] = field(
        default="abstain",
        metadata={"help": "the sign of 0: 0, as in the paper, or +1"},
    )
    seeds: tuple[int, ...] = field(
        default=(1, 2, 3), metadata={"help": "of initial values and batches"}
    )
    tune_seeds: tuple[int, ...] = field(
        default=(11,), metadata={"help": "the same, for tuning"}
    )
    split_seed: int = field(default=0, metadata={"help": "of the validation part"})
    validation: float = field(
        default=1 / 6, metadata={"help": "part of the training examples, for tuning"}
    )
    points: int = field(
        default=10, metadata={"help": "evaluations from one budget to the next"}
    )
    looks: int = field(
        default=3, metadata={"help": "evaluations of which the end is the mean"}
    )
    train_sample: int = field(
        default=10_000, metadata={"help": "training examples of the training accuracy"}
    )
    epochs: tuple[int, ...] = field(
        default=(5, 25, 50), metadata={"help": "before which gradients are sampled"}
    )
    gradient_batches: int = field(
        default=1000, metadata={"help": "sampled for the histograms"}
    )
    ahead: float = field(default=2.0, metadata={"help": "points, see the claims"})
    stall: float = field(default=0.2, metadata={"help": "points, see the claims"})
    tolerance: float = field(default=0.1, metadata={"help": "points, see the claims"})
    converged: float = field(default=90.0, metadata={"help": "percent, see the claims"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        for name in ("widths", "batch_sizes", "epochs", "seeds", "tune_seeds"):
            numbers = getattr(self, name)
            # At the start there is nothing to see yet, before epoch 1.
            least = {"seeds": 0, "tune_seeds": 0, "epochs": 2}.get(name, 1)
            if not numbers or min(numbers) < least:
                raise ValueError(
                    f"{name} must be some integers of at least {least}; got {numbers}."
                )
        check_least(self, 1, "batch_size", "points", "looks", "train_sample")
        check_least(self, 2, "gradient_batches")
        for name in ("split_grid", "standard_grid", "fine"):
            numbers = getattr(self, name)
            positive = all(0 < n < float("inf") for n in numbers)
            if not positive or (not numbers and name != "fine"):
                raise ValueError(f"{name} must be positive numbers; got {numbers}.")
        ordered = (0.0, *self.budgets, self.long_budget)
        if not self.budgets or any(
            not a < b < float("inf") for a, b in itertools.pairwise(ordered)
        ):
            raise ValueError(
                "budgets and after them long_budget must be positive and ascending; "
                f"got {self.budgets} and {self.long_budget}."
            )
        if set(self.seeds) & set(self.tune_seeds):
            raise ValueError(
                f"tune_seeds must not be among seeds; got {self.tune_seeds} and "
                f"{self.seeds}."
            )
        if not 0 < self.validation < 1:
            raise ValueError(
                f"validation must be between 0 and 1; got {self.validation}."
            )

    def cells(self) -> list[Cell]:
        """Returns all that is tuned and trained; those of Figure 3 first."""
        first = self.widths[0]
        settings: list[tuple[Batches, int, int]] = [
            ("split", first, self.batch_size),
            *(("standard", first, size) for size in self.batch_sizes),
            *(("split", width, self.batch_size) for width in self.widths),
            *(("standard", width, self.batch_size) for width in self.widths),
        ]
        return [
            Cell(*setting, method)
            for setting in dict.fromkeys(settings) for method in METHODS
        ]

    def figure_3(self, method: str) -> Cell:
        """Returns the cell of Figure 3."""
        return Cell("split", self.widths[0], self.batch_size, method)

    def budgets_of(self, cell: Cell) -> tuple[float, ...]:
        """Returns the megabytes within which a cell is trained."""
        long = cell == self.figure_3(cell.method)
        return (*self.budgets, *([self.long_budget] if long else []))

    def grid_of(self, cell: Cell) -> tuple[float, ...]:
        """Returns the coarse grid of a cell, as in the paper."""
        grid = self.split_grid if cell.batches == "split" else self.standard_grid
        return tuple(sorted(set(grid)))

"""The configuration of the least-squares study, and what the paper claims of it."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import ClassVar

from experiments._checks import check_least, check_not_negative, check_positive
from experiments._claims import Claim


@dataclasses.dataclass(frozen=True)
class Config:
    """Least squares with more coordinates than points: which solution is found."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "train", "K", "Figure 3, middle",
            "The train loss of SGD, signSGD, SIGNSGDM and EF-signSGD quickly goes to "
            "0.",
            "after {steps} steps, at the learning rate with the least train loss (over "
            "the last tenth of the steps), the mean train loss of each of the four is "
            "at most {train_level:g}; it starts at 1",
        ),
        Claim(
            "distance", "K", "Figure 3, left",
            "signSGD and SIGNSGDM have a high distance from the span of the gradients; "
            "that of EF-signSGD first increases, then goes to 0.",
            "in every repeat signSGD and SIGNSGDM end farther from the span than "
            "{far:g} of the norm of x, and EF-signSGD ends at most at "
            "{near:g} of its own largest distance, which does not come at the start",
        ),
        Claim(
            "test", "K", "Figure 3, right",
            "The test loss of EF-signSGD goes to 0, as that of SGD; signSGD and "
            "SIGNSGDM do not generalise.",
            "the mean test loss of EF-signSGD and of SGD ends at most at "
            "{test_level:g}, and in every repeat signSGD's and SIGNSGDM's is at least "
            "{times:g} times that of EF-signSGD",
        ),
        Claim(
            "level", "K", "Figure 3, right",
            "The test loss of signSGD and SIGNSGDM is higher than 0.8.",
            "their mean test loss at the end is higher than 0.8",
        ),
        Claim(
            "theorem_4", "K", "Theorem IV",
            "‖x_t - Π x_t‖ ≤ ‖e_t‖ for EF-signSGD from x_0 = 0, with the projection "
            "Π to the span of g_0, ..., g_(t-1).",
            "at every step of every repeat, within {tolerance:g} of the largest ‖e‖",
            figure="figure.png",
        ),
        Claim(
            "remark_10", "K", "Remark 10",
            "‖x_t - Π x_t‖ ≤ 2 γ √(1-δ)/δ max ‖g_i‖.",
            "at every step of every repeat, with δ the least contraction so far, "
            "φ(γ g + e)",
        ),
        Claim(
            "lemma_9", "K", "Lemma 9",
            "An algorithm whose iterates stay in the span and that reaches loss 0 ends "
            "in the solution of least norm.",
            "SGD ends within {solution:g} (relative) of A^T (A A^T)^-1 y in every "
            "repeat, and is never farther from the span than {solution:g} of ‖x‖",
        ),
    )

    points: int = field(default=200, metadata={"help": "n; half of them for training"})
    steps: int = field(default=300, metadata={"help": "full gradients"})
    repeats: int = field(default=20, metadata={"help": "draws of labels and halves"})
    grid: tuple[float, ...] = field(
        default=tuple(10 ** (k / 4) for k in range(-16, 9)),
        metadata={"help": "learning rates; the least train loss decides"},
    )
    tune_repeats: int = field(
        default=5, metadata={"help": "draws, other ones, that decide"}
    )
    beta: float = field(default=0.9, metadata={"help": "momentum of SIGNSGDM"})
    train_level: float = field(default=0.01, metadata={"help": "train loss, reached"})
    test_level: float = field(default=0.01, metadata={"help": "test loss, reached"})
    far: float = field(default=0.3, metadata={"help": "from the span, over ‖x‖"})
    near: float = field(
        default=0.01, metadata={"help": "to the span, over the largest distance"}
    )
    times: float = field(default=100.0, metadata={"help": "the ratio of test losses"})
    solution: float = field(default=1e-6, metadata={"help": "relative error of SGD"})
    tolerance: float = field(default=1e-6, metadata={"help": "of Theorem IV, rounding"})
    seed: int = field(default=0, metadata={"help": "of the draws"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        if self.points < 4 or self.points % 2:
            raise ValueError(
                f"points must be even and at least 4; got {self.points}."
            )
        check_least(self, 1, "steps", "repeats", "tune_repeats")
        if not self.grid or not all(0 < rate < float("inf") for rate in self.grid):
            raise ValueError(f"grid must hold positive numbers; got {self.grid}.")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie between 0 and 1; got {self.beta}.")
        check_positive(
            self, "train_level", "test_level", "far", "near", "times", "solution",
            "tolerance",
        )
        check_not_negative(self, "seed")

"""The configuration of the study of sparse noise, and what the papers claim of it."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import ClassVar

from experiments._checks import check_least, check_positive
from experiments._claims import Claim

SLOW = ("SGD", "EF-signSGD")
FAST = ("signSGD", "scaled signSGD")
METHODS = ("SGD", "signSGD", "scaled signSGD", "EF-signSGD")
TENTH = 10  # the part of the run whose mean loss is its level


@dataclasses.dataclass(frozen=True)
class Config:
    """Signs against SGD where one coordinate is all noise."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "figure_5", "K", "Figure 5",
            "signSGD and (scaled) signSGD are faster than SGD and EF-signSGD (100 "
            "repeats, learning rates 0.01 and 0.001).",
            "the mean loss of signSGD and of scaled signSGD is at most {low:g} (at "
            "the start it is d/2) from step {soon} on, that of SGD and of EF-signSGD "
            "is higher up to step {steps}, and at no step do the mean losses of SGD "
            "and EF-signSGD differ by more than {together:.0%}",
        ),
        Claim(
            "rates", "K", "Figure 5, caption",
            "The best learning rate is 0.001 for SGD and EF-signSGD, and 0.01 for "
            "signSGD and scaled signSGD.",
            "of {grid} these have the least mean loss over the last tenth of {steps} "
            "steps",
        ),
        Claim(
            "figure_a1", "B", "Figure A.1",
            "signSGD converges faster than SGD (learning rates 0.01 and 0.001, 50 "
            "repeats; 10,000 steps in the notebook).",
            "over the first half of the repeats signSGD's mean loss is below SGD's at "
            "every step from {early} to {long}",
        ),
        Claim(
            "decreasing", "B", "Figure A.1, its notebook",
            "With learning rates 0.1/√t (signSGD) and 0.01/√t (SGD) the qualitative "
            "conclusion is the same.",
            "the criterion of Figure A.1",
        ),
    )

    dimension: int = field(default=100, metadata={"help": "d"})
    noise: float = field(
        default=100.0, metadata={"help": "standard deviation in the first coordinate"}
    )
    repeats: int = field(default=100, metadata={"help": "of x_0 and the noise"})
    steps: int = field(default=1000, metadata={"help": "as in Figure 5"})
    long: int = field(default=10_000, metadata={"help": "steps as in the notebook"})
    rates: dict[str, float] = field(
        default_factory=lambda: {
            name: 0.01 if name in FAST else 0.001 for name in METHODS
        },
        metadata={"help": "constant learning rates"},
    )
    decreasing: dict[str, float] = field(
        default_factory=lambda: {
            name: 0.1 if name in FAST else 0.01 for name in METHODS
        },
        metadata={"help": "learning rates over the square root of the step"},
    )
    grid: tuple[float, ...] = field(
        default=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        metadata={"help": "constant learning rates among which the best is sought"},
    )
    low: float = field(default=5.0, metadata={"help": "the loss that the fast reach"})
    soon: int = field(default=300, metadata={"help": "by which step they do"})
    early: int = field(default=100, metadata={"help": "the step from which to compare"})
    together: float = field(
        default=0.2, metadata={"help": "relative difference of SGD and EF-signSGD"}
    )
    seed: int = field(default=0, metadata={"help": "of x_0 and the noise"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        check_least(self, 2, "dimension", "repeats")
        check_least(self, TENTH, "steps")
        check_least(self, 0, "seed")
        if self.long < self.steps:
            raise ValueError(
                f"long must be at least steps, {self.steps}; got {self.long}."
            )
        for name in ("soon", "early"):
            if not 0 <= getattr(self, name) <= self.steps:
                raise ValueError(
                    f"{name} must be a step from 0 to {self.steps}; "
                    f"got {getattr(self, name)}."
                )
        check_positive(self, "noise", "low", "together")
        for name in ("rates", "decreasing"):
            given = getattr(self, name)
            if set(given) != set(METHODS) or not all(r > 0 for r in given.values()):
                raise ValueError(
                    f"{name} must be positive, for {', '.join(METHODS)}; got {given}."
                )
        if not self.grid or min(self.grid) <= 0:
            raise ValueError(f"grid must hold positive numbers; got {self.grid}.")

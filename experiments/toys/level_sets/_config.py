"""What the study of the l^{1,2} norm runs, and what it is to show."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import field
from typing import ClassVar

from experiments._checks import check_least, check_not_negative, check_positive
from experiments._claims import Claim

CLAIMS = (
    Claim(
        "fig1_near", "S", "Figure 1 and Section 3",
        "Near 0 the l^{1,2} norm is equivalent to a scaled squared l2 norm.",
        "at the smallest scale the level set is within {close:g} of a circle, relative "
        "to its radius, in all directions, and not of a diamond",
    ),
    Claim(
        "fig1_far", "S", "Figure 1 and Section 3",
        "Far from 0 the l^{1,2} norm is equivalent to a scaled l1 norm.",
        "at the largest scale the level set is within {close:g} of a diamond, and not "
        "of a circle",
    ),
    Claim(
        "fig1_between", "S", "Figure 1",
        "At four scales the level sets show one after the other.",
        "from each scale to the next larger one the distance to the circle rises and "
        "that to the diamond falls",
    ),
    Claim(
        "equivalences", "S", "Section 3",
        "If sigma_i = c|g_i| + c', the norm is between multiples of the squared l2 "
        "norm where all |g_i| are at most epsilon, and between multiples of the l1 "
        "norm where all are at least L.",
        "all four inequalities hold at all of {samples} random points for each c and "
        "c' of {constants}, but for a relative {rounding:g}",
        figure="",
    ),
    Claim(
        "equivalences_printed", "S", "Section 3",
        "The same if sigma_i is at most c|g_i| + c', as printed.",
        "as above, with sigma_i anywhere between 0 and c|g_i| + c'",
        figure="",
    ),
    Claim(
        "not_a_norm", "S", "Section 3",
        "It is no norm, but positive definite and order preserving.",
        "of {samples} random pairs some violate the triangle inequality; where all "
        "coordinates of one are larger its norm is, and all norms are positive",
        figure="",
    ),
    Claim(
        "fig7", "S", "Figure 7",
        "Unit balls at different noise levels: between the ball of l1 and a disc.",
        "without noise the ball is the diamond within {rounding:g}; in every direction "
        "it grows with the noise; at the largest noise it is within {disc:g} of a "
        "circle",
        figure="figure_unit_balls.png",
    ),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Level sets and unit balls of the l^{1,2} norm in the plane."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = CLAIMS

    sigma: float = field(default=1.0, metadata={"help": "noise of Figure 1"})
    scales: tuple[float, ...] = field(
        default=(0.01, 1.0, 10.0, 1000.0),
        metadata={"help": "distances of Figure 1, rising; unstated in the paper"},
    )
    noises: tuple[float, ...] = field(
        default=(0.0, 0.1, 1.0, 10.0),
        metadata={"help": "sigma of Figure 7, rising; unstated in the paper"},
    )
    directions: int = field(
        default=721, metadata={"help": "in which sets are measured"}
    )
    samples: int = field(default=10_000, metadata={"help": "random points and pairs"})
    constants: tuple[float, ...] = field(
        default=(0.1, 1.0, 10.0), metadata={"help": "c and c' of the equivalences"}
    )
    seed: int = field(default=0, metadata={"help": "of random points"})
    close: float = field(
        default=0.01, metadata={"help": "relative distance of like level sets"}
    )
    disc: float = field(default=0.05, metadata={"help": "the same for a unit ball"})
    rounding: float = field(default=1e-5, metadata={"help": "relative, of float32"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        check_positive(self, "sigma", below=math.inf)
        for name, least in (("scales", 0.0), ("noises", -math.inf)):
            numbers = getattr(self, name)
            rises = all(a < b for a, b in itertools.pairwise(numbers))
            if len(numbers) < 2 or not rises or not least < numbers[0]:
                raise ValueError(
                    f"{name} must rise, at least two of them"
                    f"{', from above 0' * (name == 'scales')}; got {numbers}."
                )
        if self.noises[0] != 0:
            raise ValueError(f"noises must begin with 0; got {self.noises}.")
        check_positive(self, "constants")
        check_least(self, 9, "directions")
        check_least(self, 1, "samples")
        check_not_negative(self, "seed")

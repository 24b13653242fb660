"""The configuration of the counterexamples, and what the papers claim of them."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import ClassVar

from experiments._checks import check_least, check_not_negative, check_positive
from experiments._claims import Claim
from experiments.toys._descent import DECREASING, RANDOM, step_sizes

STUCK = (
    "for every epsilon and schedule, in every repeat, x1 + x2 stays 2 within "
    "{tolerance:g} (relative to the largest coordinate) and f never falls below its "
    "least value on that line, f(1, 1) = f(x_0)"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Problems on which signSGD cannot converge, and error feedback can."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "example_1", "K", "Counterexample 1",
            "With f = x/4, f falls by γ/16 a step of SGD in expectation and rises by "
            "γ/8 a step of signSGD.",
            "without the constraint the mean change of f a step, divided by γ, is "
            "within {drift_tolerance:g} of -1/16 and of +1/8; and on [-1, 1], at each "
            "fixed step size, f averaged over the second half of the run is below "
            "f(0) = 0 for SGD and EF-signSGD and above it for signSGD",
        ),
        Claim(
            "figure_1", "K", "Figure 1",
            "signSGD moves only along s = ±(1, -1), while the error e, along (1, 1), "
            "is ignored (ε = 0.5).",
            "at all of {grid_points} random points with x1 + x2 > 0 the sign of the "
            "subgradient is ±(1, -1), and what the scaled sign leaves of it, the error "
            "of EF-signSGD after one step, is ε (1, 1) within {tolerance:g}",
            figure="figure_geometry.png",
        ),
        Claim(
            "example_2", "K", "Counterexample 2",
            "From (1, 1) signSGD stays on x1 + x2 = 2, and f(x_t) ≥ f(x_0), with any "
            "step sizes, with the full subgradient.",
            STUCK + "; for the schedules, for Option 2 and for a line search",
        ),
        Claim(
            "example_3", "K", "Counterexample 3",
            "The same for a smooth least-squares problem with batches of one.",
            STUCK + "; for the schedules, for Option 2 and for a line search",
        ),
        Claim(
            "feedback", "K", "Sections 1 and 4",
            "With error feedback signSGD always converges, as SGD does.",
            "on counterexamples 2 and 3, for every epsilon, and on the problems of "
            "Theorem I in every dimension, EF-signSGD and SGD both come within "
            "{converged:g} of the loss (Theorem I: distance) at the start, in the "
            "worst repeat, under at least one of the schedules",
        ),
        Claim(
            "momentum", "K", "Section 1, contributions",
            "The counterexamples extend to signSGD with momentum.",
            "Signum with β = {beta:g} stays on the line, x1 + x2 = 2 within "
            "{tolerance:g}, on counterexamples 2 and 3, for every momentum epsilon "
            "and schedule, in every repeat",
        ),
        Claim(
            "workers", "K", "Section 1, contributions",
            "The counterexamples extend to several workers.",
            "on counterexample 3 (ε = {epsilon:g}) the majority vote of batch-1 "
            "workers stays on the line, as above, for every M and schedule, if a tie "
            "gives 0",
            figure="figure.png",
        ),
        Claim(
            "compressors", "K", "Section 1, contributions",
            "The counterexamples extend to other biased compressors.",
            "scaled signSGD, without feedback: " + STUCK
            + " (on counterexamples 2 and 3)",
        ),
        Claim(
            "theorem_1", "K", "Theorem I",
            "If sign(a_i) = ±s for all i, signSGD with batches of one almost surely "
            "does not converge to x*, for any step sizes and random x_0: it moves "
            "only along s.",
            "in every dimension, for both losses, all schedules and repeats, the "
            "component of x_t - x_0 orthogonal to s stays 0 within {tolerance:g} "
            "(relative to the largest coordinate), so that the distance to x* never "
            "falls below that of the line x_0 + R s",
        ),
        Claim(
            "line", "S", "Section 2.2",
            "From any point of the line z1 + z2 = 2, sign ĝ = ±(1, -1), and signSGD "
            "remains stuck along it with any step sizes.",
            "the criterion of counterexample 3, from a random point of the line "
            "(z1 uniform in [-2, 4]) in each repeat, compared with the least f on it",
        ),
        Claim(
            "cone", "S", "Section 2.2",
            "In the cone <a1, x><a2, x> > 0 the success probabilities are ρ_i ≤ 1/2; "
            "outside it sign ĝ is the sign of the gradient, and a step leads towards "
            "the cone.",
            "at all of {grid_points} random points of [-2, 2]^2, for every epsilon: "
            "in the cone ρ_i ≤ 1/2 where g_i ≠ 0; outside it ρ_i = 1, and a step of "
            "0.001 (where it does not cross the axis) lessens |x1 - x2|, the distance "
            "to the axis but for a factor",
            figure="figure_geometry.png",
        ),
    )

    epsilons: tuple[float, ...] = field(
        default=(0.1, 0.5, 0.9), metadata={"help": "of counterexamples 2 and 3"}
    )
    epsilon: float = field(
        default=0.5, metadata={"help": "of the votes and the figures (Figure 1's)"}
    )
    schedules: tuple[str, ...] = field(
        default=("1", "0.1", "0.01", "1/sqrt(t)", "1/t", "random"),
        metadata={"help": "step sizes: numbers, 1/sqrt(t), 1/t, random"},
    )
    fixed: tuple[float, ...] = field(
        default=(0.1, 0.01, 0.002), metadata={"help": "step sizes of counterexample 1"}
    )
    beta: float = field(
        default=0.9, metadata={"help": "of the claim on momentum and the figures"}
    )
    betas: tuple[float, ...] = field(
        default=(0.5, 0.9, 0.99), metadata={"help": "momentum of Signum"}
    )
    momentum_epsilons: tuple[float, ...] = field(
        default=(0.01, 0.04, 0.1, 0.5, 0.9), metadata={"help": "for momentum"}
    )
    workers: tuple[int, ...] = field(
        default=(2, 3, 8), metadata={"help": "numbers of workers that vote"}
    )
    dimensions: tuple[int, ...] = field(
        default=(2, 10, 50), metadata={"help": "of the problems of Theorem I"}
    )
    points: int = field(
        default=3, metadata={"help": "data points a dimension, for Theorem I"}
    )
    steps: int = field(default=3000, metadata={"help": "of every run but the votes"})
    vote_steps: int = field(default=1000, metadata={"help": "of every vote"})
    repeats: int = field(default=20, metadata={"help": "runs of all that is random"})
    grid_points: int = field(
        default=2000, metadata={"help": "where the geometry is looked at"}
    )
    tolerance: float = field(
        default=1e-9, metadata={"help": "rounding (in double precision)"}
    )
    drift_tolerance: float = field(
        default=0.01, metadata={"help": "of counterexample 1's mean change, over γ"}
    )
    converged: float = field(
        default=0.05, metadata={"help": "of the value at the start, when it is reached"}
    )
    seed: int = field(default=0, metadata={"help": "of all that is random"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        for name, low, high in (
            ("epsilons", 0, 1), ("momentum_epsilons", 0, 1), ("fixed", 0, 1),
        ):
            values = getattr(self, name)
            if not values or not all(low < value < high for value in values):
                raise ValueError(
                    f"{name} must lie between {low} and {high}; got {values}."
                )
        if self.epsilon not in self.epsilons:
            raise ValueError(
                f"epsilon must be one of epsilons, {self.epsilons}; got {self.epsilon}."
            )
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie between 0 and 1; got {self.betas}.")
        if self.beta not in self.betas:
            raise ValueError(
                f"beta must be one of betas, {self.betas}; got {self.beta}."
            )
        check_least(self, 2, "dimensions")
        check_least(
            self, 1, "workers", "points", "steps", "vote_steps", "repeats",
            "grid_points",
        )
        check_positive(self, "tolerance", "drift_tolerance", "converged")
        check_not_negative(self, "seed")
        if not self.schedules:
            raise ValueError(
                "schedules must not be empty; a schedule is a positive number, "
                f"{', '.join(DECREASING)} or {RANDOM}."
            )
        for schedule in self.schedules:
            step_sizes(schedule, 1, self.seed)

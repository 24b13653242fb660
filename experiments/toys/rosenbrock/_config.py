"""What the study of the Rosenbrock function runs, and what it is to show."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import field
from typing import ClassVar

from experiments._checks import check_least, check_not_negative, check_positive
from experiments._claims import Claim
from experiments.toys.rosenbrock._problem import STARTS

CLAIMS = (
    Claim(
        "fig2_divergence", "S", "Figure 2, first column",
        "Constant step 0.25 and mini-batch 1: f diverges.",
        "the slope of log f against log k over the last nine tenths of the iterations, "
        "f the mean of ten repetitions, is at least {rises:g}, in the mean of all "
        "groups of ten",
    ),
    Claim(
        "fig2_oscillation", "S", "Figure 2, second column",
        "Mini-batch 2: f oscillates.",
        "that slope is less than {rises:g} in absolute value, and the standard "
        "deviation of log10 f over the last quarter at least {swing:g}",
    ),
    Claim(
        "fig2_spb", "S", "Figure 2, second row",
        "The assumption rho_i > 1/2 is violated strongly with mini-batch 1, and "
        "slightly with 2.",
        "the exact minimum of rho over coordinates falls below 1/2 - {tolerance:g} "
        "along the runs, with mini-batch 1 and with 2",
    ),
    Claim(
        "fig2_order", "S", "Figure 2",
        "The larger the success probabilities, the better the rate.",
        "from each mini-batch to the next larger one the mean of the minimum of rho "
        "rises and the median of f over the last quarter falls",
    ),
    Claim(
        "fig2_probabilities", "S", "Figure 2, third and fourth column",
        "With mini-batches 5 and 8 success probabilities are pushed to be close to 1.",
        "with the largest mini-batch the mean of all rho along the runs is at least "
        "{close:g}",
    ),
    Claim(
        "fig6", "S", "Figure 6",
        "Step 0.25/sqrt(k+1): f oscillates with mini-batches 1 and 2, and with 5 and 7 "
        "oscillations are mitigated substantially.",
        "the mean change of f in one iteration, over the second half, is with each of "
        "the two larger mini-batches at most {mitigated:g} times that with each of the "
        "two smaller ones",
        figure="figure_decreasing.png",
    ),
    Claim(
        "fig8_divergence", "S", "Figure 8, first column",
        "Mini-batch 2 and step 0.25: f diverges.",
        "the slope of log f against log k is at least {rises:g}, as for Figure 2",
        figure="figure_step_sizes.png",
    ),
    Claim(
        "fig8_neighbourhood", "S", "Figure 8, second and third column",
        "Mini-batch 2 and steps 0.1 and 0.05: f converges to a neighbourhood of the "
        "minimum.",
        "with both the slope is less than {rises:g}, and the median of f over the last "
        "quarter is at most f(x_0)/{falls:g}, and smaller with the smaller step",
        figure="figure_step_sizes.png",
    ),
    Claim(
        "fig8_slower", "S", "Figure 8, fourth column",
        "Step 0.01: convergence is slower.",
        "the smaller the step, of all but the largest, the later f is first at most "
        "f(x_0)/{falls:g}, and the lower the median of f over the last quarter",
        figure="figure_step_sizes.png",
    ),
    Claim(
        "theorem1", "S", "Theorem 1, equation (7)",
        "The mean of the rho-norm is at most (f(x_0) - f*)/(gamma K) + gamma d L/2.",
        "so in the mean of the repetitions for all constant steps of Figures 2 and 8, "
        "with the L_i of the box that all their points are in",
        figure="figure_step_sizes.png",
    ),
    Claim(
        "theorem2", "S", "Algorithm 1, Option 2; Theorem 2",
        "Taking only steps that lower f, f never rises, and with constant steps the "
        "bound of equation (7) holds too.",
        "in no repetition does f rise, and the mean of the rho-norm is under the "
        "bound, for all mini-batches of Figure 2",
    ),
    Claim(
        "fig4_more", "S", "Figure 4",
        "More nodes improve the convergence rate, with constant and decreasing steps.",
        "with both steps the mean over iterations of log10 of mean f falls from each "
        "odd number of workers to the next",
        figure="figure_workers.png",
    ),
    Claim(
        "fig4_pairs_constant", "S", "Figure 4, left",
        "Constant step 0.02: no improvement from 2l-1 to 2l nodes.",
        "the difference of that mean between 2l-1 and 2l workers, in absolute value, "
        "is in the mean over l at most {pair_share:g} times that between consecutive "
        "odd numbers",
        figure="figure_workers.png",
    ),
    Claim(
        "fig4_pairs_decreasing", "S", "Figure 4, right",
        "Step 0.02/sqrt(k+1): no improvement from 2l-1 to 2l nodes.",
        "as on the left",
        figure="figure_workers.png",
    ),
    Claim(
        "expected_sign", "S", "Section 4.2 and Lemma 8",
        "The expected sign of the vote is the same with 2l-1 and with 2l nodes.",
        "at {points} points of a run, for all l and coordinates, the means of "
        "{vote_draws} votes differ by at most {errors:g} standard errors",
        figure="",
    ),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """signSGD on the Rosenbrock function, and how likely its signs are right."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = CLAIMS

    dimension: int = field(default=10, metadata={"help": "d"})
    start: str = field(
        default="standard",
        metadata={"help": f"initial point, unstated in the paper: {', '.join(STARTS)}"},
    )
    noise: float = field(
        default=1.0, metadata={"help": "nu, unstated in the paper"}
    )
    steps: int = field(
        default=5000, metadata={"help": "iterations, unstated in the paper"}
    )
    repetitions: int = field(
        default=100,
        metadata={"help": "of every run; 10 in the paper, too few for a slope"},
    )
    vote_repetitions: int = field(
        default=10, metadata={"help": "where workers vote, as in the paper"}
    )
    sweep_repetitions: int = field(default=10, metadata={"help": "in the sweep"})
    seed: int = field(default=0, metadata={"help": "of all that is random"})
    step_size: float = field(
        default=0.25, metadata={"help": "gamma and gamma_0 of Figures 2 and 6"}
    )
    batches: tuple[int, ...] = field(
        default=(1, 2, 5, 8), metadata={"help": "tau of Figure 2, rising"}
    )
    decreasing_batches: tuple[int, ...] = field(
        default=(1, 2, 5, 7), metadata={"help": "tau of Figure 6, rising, four"}
    )
    step_sizes: tuple[float, ...] = field(
        default=(0.25, 0.1, 0.05, 0.01), metadata={"help": "of Figure 8, falling, four"}
    )
    step_sizes_batch: int = field(default=2, metadata={"help": "tau of Figure 8"})
    pairs: tuple[int, ...] = field(
        default=(1, 2, 4, 8), metadata={"help": "l, rising: 2l-1 and 2l workers vote"}
    )
    vote_step_size: float = field(
        default=0.02, metadata={"help": "gamma and gamma_0 of Figure 4"}
    )
    every: int = field(
        default=50, metadata={"help": "iterations from one look at rho to the next"}
    )
    draws: int = field(
        default=100, metadata={"help": "stochastic gradients of an estimate of rho"}
    )
    points: int = field(default=5, metadata={"help": "where expected votes are taken"})
    vote_draws: int = field(default=50_000, metadata={"help": "votes at each of them"})
    sweep_noises: tuple[float, ...] = field(
        default=(0.1, 1.0, 10.0, 100.0), metadata={"help": "other nu"}
    )
    sweep_starts: tuple[str, ...] = field(
        default=STARTS, metadata={"help": "other initial points"}
    )
    sweep_steps: tuple[int, ...] = field(
        default=(1000, 5000, 20_000), metadata={"help": "other numbers of iterations"}
    )
    rises: float = field(
        default=0.5, metadata={"help": "slope of log f from which f diverges"}
    )
    swing: float = field(
        default=0.2, metadata={"help": "deviation of log10 f of an oscillation"}
    )
    tolerance: float = field(
        default=1e-5, metadata={"help": "rounding of exact probabilities"}
    )
    close: float = field(default=0.9, metadata={"help": "what is close to 1"})
    mitigated: float = field(
        default=0.5, metadata={"help": "to which part oscillations must fall"}
    )
    falls: float = field(
        default=10.0, metadata={"help": "by which f must fall near the minimum"}
    )
    pair_share: float = field(
        default=0.25, metadata={"help": "of 2l-1 to 2l in 2l-1 to 2l+1"}
    )
    errors: float = field(default=4.5, metadata={"help": "standard errors allowed"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        check_least(self, 3, "dimension")
        unknown = [s for s in (self.start, *self.sweep_starts) if s not in STARTS]
        if unknown or not self.sweep_starts:
            raise ValueError(
                f"start and sweep_starts must be some of {', '.join(STARTS)}; got "
                f"{', '.join(unknown) or 'none'}."
            )
        check_positive(
            self, "step_size", "vote_step_size", "noise", "step_sizes",
            "sweep_noises", below=math.inf,
        )
        check_least(
            self, 1, "repetitions", "vote_repetitions", "sweep_repetitions", "every",
            "draws", "points", "vote_draws", "batches", "decreasing_batches",
            "step_sizes_batch", "pairs",
        )
        check_least(self, 20, "steps", "sweep_steps")
        for name in ("decreasing_batches", "step_sizes"):
            if len(getattr(self, name)) != 4:
                raise ValueError(
                    f"{name} must be four, as the figure's columns; got "
                    f"{getattr(self, name)}."
                )
        for name, sign in (("batches", 1), ("decreasing_batches", 1), ("pairs", 1),
                           ("step_sizes", -1), ("sweep_steps", 1)):
            numbers = getattr(self, name)
            if any(sign * a >= sign * b for a, b in itertools.pairwise(numbers)):
                order = "rise" if sign > 0 else "fall"
                raise ValueError(f"{name} must {order}; got {numbers}.")
        if len(self.batches) < 2 or len(self.pairs) < 2:
            raise ValueError(
                f"batches and pairs must be at least two each; got {self.batches} and "
                f"{self.pairs}."
            )
        check_not_negative(self, "seed")
        if self.steps < self.points or self.steps < self.every:
            raise ValueError(
                f"steps must be at least points and every; got {self.steps}, "
                f"{self.points} and {self.every}."
            )

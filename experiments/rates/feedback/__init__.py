"""Rates of error feedback: Theorems II and III and their remarks, Lemma 3.

Karimireddy et al. prove that SGD with error feedback falls like SGD, with the
compressor in a term of second order; for functions with kinks in the first. `python -m
experiments rates_feedback` holds the library's optimizers against the bounds, on
functions whose constants are known: ripples, √(1 + x_i²) - 1 + (1 - cos 3x_i)/10 in
each coordinate, smooth and not convex, and counterexample 2, convex with kinks.
Gradients carry Gaussian noise.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import ClassVar

import numpy as np

from experiments._checks import check_increasing, check_least, check_positive
from experiments._claims import Claim
from experiments._results import Results, progress
from experiments.rates.curves import Comparison, Curve, summary
from experiments.rates.feedback import verdicts
from experiments.rates.feedback.algorithms import SGD
from experiments.rates.feedback.error import lemma_3
from experiments.rates.feedback.figures import draw_all
from experiments.rates.feedback.kinked import kinked, stuck
from experiments.rates.feedback.smooth import Smooth

BOUND = (
    "at every T of {horizons} the mean of {seeds} seeds is at most the bound, up to "
    "{errors:g} standard errors of that mean"
)
SLOPE = (
    "; from T = {fit_from} on, the slope in log-log is at most -1/2 + "
    "{slope_tolerance:g}"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Karimireddy et al.'s theorems, held against runs with known constants."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "theorem_ii", "K", "Theorem II",
            "EF-SGD with a δ-compressor: min ‖∇f(x_t)‖² ≤ 2f₀/(γ(T+1)) + γLσ²/2 + "
            "4γ²L²σ²(1-δ)/δ². The proof with its ρ = 1 gives γLσ² in the middle, for "
            "the mean over t; that is tested.",
            "the mean over t of ‖∇f(x_t)‖² on the ripples with γ of {rates}: " + BOUND,
            figure="figure_smooth.png",
        ),
        Claim(
            "remark_4", "K", "Remark 4",
            "With γ = 1/√(T+1), ‖∇f‖² falls like 1/√(T+1) for every compressor, as for "
            "SGD, which has (2f₀ + Lσ²)/(2√(T+1)).",
            "as for Theorem II, SGD against its own bound: " + BOUND + SLOPE,
            figure="figure_smooth.png",
        ),
        Claim(
            "delta_in_second_order", "K", "Remark 4",
            "δ appears only in the O(1/T) term: after O(1/δ²) steps compression costs "
            "nothing.",
            "for top-k and random-k with k of {kept} from T = {fit_from} on, the "
            "distance to SGD's ‖∇f‖² under the same noise falls with slope at most "
            "{gap_slope:g} (theory -1; -1/2 if δ were in the leading term), and the "
            "ratio to SGD, continued to T → ∞ by a line in 1/√T, is within "
            "{lead_tolerance:g} of 1; random-k without feedback fails both",
            figure="figure_delta.png",
        ),
        Claim(
            "remark_5", "K", "Remark 5",
            "An unbiased U with E‖U(x)‖² ≤ κ‖x‖² alone has κσ² in the leading term; "
            "U/κ with error feedback has it in the O(1/T) term, printed as 2L²σ²κ². "
            "Theorem II with δ = 1/κ gives 4L²σ²κ(κ-1); that is tested.",
            "random-k with κ = d/k for k of {kept}, with and without feedback: " + BOUND
            + "; and continued to T → ∞ it is without feedback at least "
            "{bare_factor:g} κ times SGD's, with feedback within {lead_tolerance:g} of "
            "it",
            figure="figure_smooth.png",
        ),
        Claim(
            "lemma_3", "K", "Lemma 3",
            "E‖e_t‖² ≤ 4(1-δ)γ²σ²/δ² at every t.",
            "for streams of gradients of norm 1 (constant, Gaussian, one coordinate, "
            "heavy-tailed), {error_steps} steps, 1/δ from 2 to d, top-k, random-k and "
            "the scaled sign: the greatest E‖e_t‖² over t is at most the bound, up to "
            "{errors:g} standard errors of the mean of {seeds} seeds",
            figure="figure_error.png",
        ),
        Claim(
            "lemma_3_surely", "K", "Lemma 3 (its deterministic form)",
            "The lemma's recursion without expectations: where ‖g‖ ≤ G always, "
            "‖e_t‖ ≤ γG√(1-δ)/(1-√(1-δ)) (derived, not printed).",
            "top-k and the scaled sign on the same streams: the greatest ‖e_t‖ over "
            "all t and seeds is at most that",
            figure="figure_error.png",
        ),
        Claim(
            "theorem_iii", "K", "Theorem III",
            "Convex f with kinks: E f(x̄_T) - f* ≤ ‖x₀-x*‖²/(γ(T+1)) + "
            "γσ²(1 + 2√(1-δ)/δ). The proof loses a factor 2; ‖x₀-x*‖²/(2γ(T+1)) + "
            "γσ²(1/2 + 2√(1-δ)/δ) is tested, which is smaller. Top-1 is Remark 7.",
            "counterexample 2 in {pairs} pairs of coordinates, γ = {creases_rate:g}: "
            + BOUND.replace("horizons", "creases_horizons"),
            figure="figure_kinked.png",
        ),
        Claim(
            "remark_6", "K", "Remark 6",
            "At the best γ, f(x̄_T) - f* ≤ ‖x₀-x*‖σ√((1 + 2√(1-δ)/δ)/(T+1)). The sum "
            "gives 1 + 4√(1-δ)/δ; that is tested.",
            "as for Theorem III with the best γ: "
            + BOUND.replace("horizons", "creases_horizons") + SLOPE,
            figure="figure_kinked.png",
        ),
    )

    horizons: tuple[int, ...] = field(
        default=(64, 128, 256, 512, 1024, 2048, 4096, 8192),
        metadata={"help": "numbers of points, T + 1"},
    )
    seeds: int = field(default=16, metadata={"help": "runs of each algorithm"})
    dimension: int = field(default=32, metadata={"help": "of the ripples and streams"})
    start: float = field(default=1.0, metadata={"help": "each coordinate, ripples"})
    noise: float = field(default=1.0, metadata={"help": "its deviation, ripples"})
    rates: tuple[float, ...] = field(
        default=(0.02, 0.1), metadata={"help": "γ of Theorem II"}
    )
    kept: tuple[int, ...] = field(
        default=(16, 8, 4), metadata={"help": "k of top-k and random-k on the ripples"}
    )
    creases_horizons: tuple[int, ...] = field(
        default=(64, 128, 256, 512, 1024, 2048, 4096),
        metadata={"help": "T + 1 with kinks"},
    )
    pairs: int = field(default=8, metadata={"help": "of coordinates with kinks"})
    epsilon: float = field(default=0.5, metadata={"help": "of counterexample 2"})
    creases_noise: float = field(default=1.0, metadata={"help": "deviation with kinks"})
    creases_rate: float = field(default=0.01, metadata={"help": "γ of Theorem III"})
    kept_creases: tuple[int, ...] = field(
        default=(4, 1), metadata={"help": "k of top-k and random-k with kinks"}
    )
    error_steps: int = field(default=400, metadata={"help": "of each stream"})
    error_kept: tuple[int, ...] = field(
        default=(1, 4, 16), metadata={"help": "k = δd of Lemma 3"}
    )
    errors: float = field(default=3.0, metadata={"help": "standard errors allowed"})
    fit_from: int = field(default=1024, metadata={"help": "the least T in slopes"})
    slope_tolerance: float = field(default=0.05, metadata={"help": "above -1/2"})
    gap_slope: float = field(default=-0.75, metadata={"help": "of distances to SGD"})
    lead_tolerance: float = field(
        default=0.05, metadata={"help": "of leading terms against SGD's"}
    )
    bare_factor: float = field(
        default=0.5, metadata={"help": "part of κ that must show without feedback"}
    )
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        check_increasing(self, 2, "horizons", "creases_horizons")
        check_least(self, 1, "seeds", "pairs", "error_steps")
        check_positive(
            self, "noise", "creases_noise", "creases_rate", "epsilon", "rates",
            below=math.inf,
        )
        for name, most in (
            ("kept", self.dimension), ("error_kept", self.dimension),
            ("kept_creases", 2 * self.pairs),
        ):
            values = getattr(self, name)
            if not values or not all(0 < k < most for k in values):
                raise ValueError(f"{name} must be from 1 to {most - 1}; got {values}.")


def run(config: Config) -> dict[str, Comparison]:
    """Runs everything; returns what was compared, by claim."""
    results = Results(config.results, "rates_feedback", config)
    with progress(len(config.kept) * 4 + len(config.error_kept) * 3 + 8, "run") as bar:

        def tick(what: str) -> None:
            bar.set_description(what)
            bar.update()

        smooth = Smooth(config, tick)
        fixed, best, printed = kinked(config, tick)
        lemma = lemma_3(config, tick)
    printed |= smooth.printed_ratio()
    leading = {
        name: smooth.leading(runs) for name, runs in smooth.falling.items()
        if name != SGD
    }
    bare = {k: smooth.leading(runs) for k, runs in smooth.bare.items()}

    def compare(key: str, curves: list[Curve]) -> Comparison:
        return Comparison(key, curves, config.errors, config.slope_tolerance)

    compared = {
        "theorem_ii": compare("theorem_ii", smooth.theorem_ii()),
        "remark_4": compare("remark_4", smooth.remark_4()),
        # Its criterion is on leading terms, not on slopes.
        "remark_5": Comparison("remark_5", smooth.remark_5(), config.errors, np.inf),
        "lemma_3": compare("lemma_3", lemma.mean),
        "lemma_3_surely": compare("lemma_3_surely", lemma.surely),
        "theorem_iii": compare("theorem_iii", fixed),
        "remark_6": compare("remark_6", best),
    }
    compared["theorem_ii"].judge(
        results, f"of the bound as printed at most {printed['Theorem II']:.3g}"
    )
    compared["remark_4"].judge(results)
    compared["lemma_3"].judge(
        results, f"of the tighter 2(1-δ)(2-δ)γ²σ²/δ² at most {lemma.tight:.3g}"
    )
    compared["lemma_3_surely"].judge(results)
    control = stuck(config)
    compared["theorem_iii"].judge(
        results,
        f"of the bound as printed at most {printed['Theorem III']:.3g}; without "
        f"feedback the scaled sign stays at f(x̄) - f* = {control.mean[-1]:.3g}, "
        f"{control.ratio[-1]:.2g} of the bound with δ = 1/d",
    )
    compared["remark_6"].judge(
        results, f"of the bound as printed at most {printed['Remark 6']:.3g}"
    )
    verdicts.of_remark_5(config, results, compared["remark_5"], printed, leading, bare)
    verdicts.of_delta(config, results, smooth.gaps(), leading, bare)
    draw_all(config, results, smooth, compared, control, lemma)
    results.finish(_summary(config, smooth, compared))
    return compared


def _summary(config: Config, smooth: Smooth, compared: dict[str, Comparison]) -> str:
    """Returns what ran, and the table of all curves."""
    gap, smoothness, moment = smooth.constants
    return (
        f"Error feedback against its theorems, {config.seeds} seeds. Ripples: d = "
        f"{config.dimension}, f(x₀) - f* = {gap:.4g}, L = {smoothness:g}, σ² = "
        f"{moment:.4g} (a bound of E‖g‖² at every point). Counterexample 2 with ε = "
        f"{config.epsilon:g}, sign(0) = 1, {config.pairs} pairs. Chosen here, as the "
        "theorems are for any: functions, noise, starts, T and the γ of Theorems II "
        f"and III. Slopes from T = {config.fit_from} on; for Remark 5 they are not in "
        "the criterion: without feedback the noise is κ times as large, and 1/√(T+1) "
        "still too long a step for the slope to be that of the leading term.\n\n"
        + summary(list(compared.values()))
    )

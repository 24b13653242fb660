"""Rates of stochastic sign descent: the theorems of Safaryan and Richtárik.

`python -m experiments rates_stochastic` holds signSGD, its Option 2 and majority vote
against bounds that know nothing of the noise but the success probabilities ρ_i: on a
quadratic whose L_i go from 0.5 to 1.5, where smoothness is an equality, with Gaussian
and with Cauchy noise, and on ripples, which are not convex. Then the lemmas on ρ, and
appendix E: the scaled stochastic sign, against the scaled sign with error feedback.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import ClassVar

from experiments._checks import check_least, check_positive
from experiments._claims import Claim
from experiments._results import Results, progress
from experiments.rates.curves import Comparison, summary
from experiments.rates.stochastic import verdicts
from experiments.rates.stochastic.chances import (
    lemma_1,
    lemma_7,
    lemma_8,
    small_batches,
)
from experiments.rates.stochastic.descent import (
    Descent,
    bowl,
    schedule_of_accepted_steps,
)
from experiments.rates.stochastic.figures import draw_all
from experiments.rates.stochastic.scaled import against_feedback, moments

BOUND = (
    "at every K of {horizons} the mean of {seeds} seeds is at most the bound, up to "
    "{errors:g} standard errors"
)
SLOPE = (
    "; with γ_k = γ₀/√(k+1), from K = {fit_from} on, the slope in log-log is at most "
    "the rate's + {slope_tolerance:g}"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Safaryan and Richtárik's theorems, held against runs with known constants."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "theorem_1", "S", "Theorem 1",
            "signSGD with ρ_i > ½: with γ_k = γ₀/√(k+1), min E‖g_k‖_ρ ≤ "
            "[(f₀-f*)/γ₀ + γ₀dL̄]/√K + γ₀dL̄ log K/(2√K); with constant γ, mean E‖g_k‖_ρ "
            "≤ (f₀-f*)/(γK) + γdL̄/2.",
            "the mean weighted by γ_k (which the proof bounds) and the plain mean, on "
            "the quadratic with Gaussian and Cauchy noise and on the ripples, γ₀ = "
            "{first_rate:g}, γ = {rate:g}: " + BOUND + SLOPE,
            figure="figure_descent.png",
        ),
        Claim(
            "theorem_2", "S", "Theorem 2",
            "Option 2 (a step is taken if it lowers f) drops the logarithm and bounds "
            "the mean: mean E‖g_k‖_ρ ≤ [(f₀-f*)/γ₀ + γ₀dL̄]/√K.",
            "as for Theorem 1, the plain mean, with `accept_if_lower` and the rate of "
            "step k whatever was accepted before: " + BOUND + SLOPE,
            figure="figure_descent.png",
        ),
        Claim(
            "theorem_3", "S", "Theorem 3",
            "With a majority vote of M workers Theorem 1 holds for the ρ_M-norm, of "
            "weights 2I(ρ_i; l, l) - 1, l = ⌊(M+1)/2⌋.",
            "on the quadratic, d = {vote_dimension}, with M of {workers}: "
            + BOUND + SLOPE,
            figure="figure_votes.png",
        ),
        Claim(
            "lemma_8", "S", "Lemma 8",
            "E[vote · sign g_i] = 2I(ρ_i; l, l) - 1, the same for 2l - 1 and for 2l "
            "workers.",
            "for 50 ρ from 0.505 to 0.995 and l up to {most_votes}, the exact sums of "
            "2l - 1 and 2l workers, ties counting 0, agree with one another and with "
            "the formula to {exact:g}, and with the library's ρ_M-norm in float32 to "
            "{single:g} for l up to 16",
            figure="figure_votes.png",
        ),
        Claim(
            "variance_reduction", "S", "Section 4.2 and appendix B.8",
            "Exponentially fast: 2I(ρ; l, l) - 1 ≥ 1 - exp(-(2ρ-1)²l). (The proof "
            "takes P[vote right] for E[vote · sign g]; the inequality is tested.)",
            "on the same ρ and l, exactly",
            figure="figure_votes.png",
        ),
        Claim(
            "lemma_1", "S", "Lemma 1",
            "Unbiased, unimodal and symmetric noise gives ρ_i ≥ ½ + ½|g_i|/(|g_i| + "
            "√3σ_i).",
            "exactly, for five laws with |g|/σ from 0.02 to 6, as a bound of 1 - ρ; "
            "and the library's estimates from {samples} draws agree with the exact ρ "
            "within 5 standard errors",
            figure="figure_chances.png",
        ),
        Claim(
            "lemma_1_improved", "S", "Appendix B.1",
            "ρ_i ≥ 1 - ½/(1 + z + z²) with z = |g_i|/(√3σ_i), which is tighter.",
            "exactly, for the same laws; and nowhere below Lemma 1",
            figure="figure_chances.png",
        ),
        Claim(
            "lemma_5_6", "S", "Lemmas 2, 5 and 6",
            "The sign of a mini-batch of τ is wrong with probability at most σ²/(τμ²) "
            "(Lemma 2: c/τ where σ² ≤ cμ²), and at most ½(1 - erf(|μ|√τ/(√2σ)) + "
            "ν³/(σ³√τ)).",
            "exactly, for three two-point laws and τ from 1 to 2000",
            figure="figure_chances.png",
        ),
        Claim(
            "lemma_7", "S", "Lemma 7 (Lemma 3)",
            "P[right sign] > ½ for every mini-batch τ > 2 min(σ²/μ², ν³/(|μ|σ²)).",
            "exactly, for two-point laws with the chance of one value from {chances} "
            "and means from near 0 to far from it, for all τ up to four times that",
            figure="figure_chances.png",
        ),
        Claim(
            "theorem_6", "S", "Theorem 6 (appendix C)",
            "SGD with E‖ĝ‖² ≤ C: Theorem 1's rates with E‖∇f‖², C L_max in the place "
            "of dL̄.",
            "on the ripples, the weighted and the plain mean: " + BOUND + SLOPE,
            figure="figure_appendices.png",
        ),
        Claim(
            "appendix_d", "S", "Appendix D",
            "With γ = √(2(f₀-f*)/(dL̄K)), mean E‖g_k‖_ρ ≤ √(2dL̄(f₀-f*)/K); with "
            "unimodal symmetric noise so is the l^{1,2}-norm, and Σ|g_i| where σ_i < "
            "√3|g_i|/2 plus Σg_i²/σ_i elsewhere is at most 5√(dL̄(f₀-f*)/K), which "
            "recovers the theorem of the ICLR 2019 paper.",
            "on the quadratic and on the ripples: " + BOUND + "; from K = {fit_from} "
            "on, the slopes are at most -1/2 + {slope_tolerance:g}",
            figure="figure_appendices.png",
        ),
        Claim(
            "stochastic_sign", "S", "Appendix E, Definition 3",
            "C(x) = ‖x‖₂ · stochastic sign is unbiased, E‖C(x) - x‖² = (d-1)‖x‖², "
            "‖C(x)‖² = d‖x‖², and C(0) = 0.",
            "over {samples} draws for each of four x, d = {dimension}: the mean within "
            "5 standard errors of x in each coordinate, the variance within 5, the "
            "norm to {single:g} in every draw",
            figure="figure_appendices.png",
        ),
        Claim(
            "appendix_e_bounds", "S", "Appendix E",
            "SGD with C has mean E‖∇f‖² ≤ (f₀-f*)/(γK) + γL_max C d/2, which beats "
            "Theorem II of Karimireddy et al. with δ = 1/d if γ ≥ 1/(8dL_max), leaving "
            "out its factor 2 of the first term.",
            "the bounds cross at 1/(8dL), and with the provable Theorem II at "
            "(d-2)/(8d(d-1)L), to {exact_crossing:g} relatively; and at K = "
            "{against_steps} and γ of {multiples} times 1/(8dL) both methods are "
            "within their bounds, up to {errors:g} standard errors",
            figure="figure_appendices.png",
        ),
        Claim(
            "appendix_e_runs", "S", "Appendix E (taken as advice)",
            "The stochastic sign needs no memory and is better than the scaled sign "
            "with error feedback if γ ≥ 1/(8dL_max). (The paper says so of the bounds "
            "only.)",
            "at every γ ≥ 1/(8dL) among those the mean ‖∇f‖² of the stochastic sign is "
            "at most that of the scaled sign with feedback",
            figure="figure_appendices.png",
        ),
    )

    horizons: tuple[int, ...] = field(
        default=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
        metadata={"help": "numbers of steps K"},
    )
    seeds: int = field(default=16, metadata={"help": "runs of each algorithm"})
    dimension: int = field(default=20, metadata={"help": "of all functions"})
    start: float = field(default=1.0, metadata={"help": "each coordinate"})
    noise: float = field(default=2.0, metadata={"help": "its scale, each coordinate"})
    first_rate: float = field(default=0.5, metadata={"help": "γ₀ of decreasing steps"})
    rate: float = field(default=0.01, metadata={"help": "constant γ"})
    workers: tuple[int, ...] = field(
        default=(2, 3, 4, 15, 16), metadata={"help": "M of Theorem 3"}
    )
    vote_dimension: int = field(
        default=2, metadata={"help": "of the quadratic of Theorem 3"}
    )
    signals: int = field(default=40, metadata={"help": "values of |g|/σ, of τ"})
    samples: int = field(default=20000, metadata={"help": "draws for each chance"})
    chances: tuple[float, ...] = field(
        default=(0.01, 0.1, 0.5, 0.9, 0.99), metadata={"help": "two-point laws"}
    )
    shares: tuple[float, ...] = field(
        default=(0.1, 0.5, 0.8, 0.9, 0.95), metadata={"help": "1 is a mean of 0"}
    )
    most_samples: int = field(default=20000, metadata={"help": "the largest τ tried"})
    most_votes: int = field(default=100, metadata={"help": "l of Lemma 8"})
    against_steps: int = field(default=2048, metadata={"help": "K of appendix E"})
    multiples: tuple[float, ...] = field(
        default=(0.125, 0.5, 1.0, 2.0, 8.0, 32.0),
        metadata={"help": "γ of appendix E in units of the threshold"},
    )
    errors: float = field(default=3.0, metadata={"help": "standard errors allowed"})
    fit_from: int = field(default=512, metadata={"help": "the least K in slopes"})
    slope_tolerance: float = field(default=0.1, metadata={"help": "of slopes"})
    exact: float = field(default=1e-10, metadata={"help": "of sums in float64"})
    single: float = field(default=1e-5, metadata={"help": "of sums in float32"})
    exact_crossing: float = field(default=1e-6, metadata={"help": "of the thresholds"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        for name in ("horizons", "workers", "multiples"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)) or values[0] <= 0:
                raise ValueError(f"{name} must increase from above 0; got {values}.")
        if self.horizons[0] < 2:
            raise ValueError(f"horizons must be at least 2; got {self.horizons[0]}.")
        check_least(
            self, 1, "seeds", "most_votes", "against_steps", "vote_dimension"
        )
        check_least(self, 2, "samples")
        check_least(self, 3, "dimension", "signals")
        check_positive(self, "noise", "first_rate", "rate", below=math.inf)
        for name in ("chances", "shares"):
            if not all(0 < v < 1 for v in getattr(self, name)):
                raise ValueError(
                    f"{name} must be between 0 and 1; got {getattr(self, name)}."
                )


def run(config: Config) -> dict[str, Comparison]:
    """Runs everything; returns what was compared, by claim."""
    results = Results(config.results, "rates_stochastic", config)
    with progress(11 + len(config.workers), "run") as bar:

        def tick(what: str) -> None:
            bar.set_description(what)
            bar.update()

        descent = Descent(config, tick)
        curves = {
            "theorem_1": descent.theorem_1(),
            "theorem_2": descent.theorem_2(),
            "theorem_3": descent.theorem_3(),
            "theorem_6": descent.theorem_6(),
            "appendix_d": descent.appendix_d(),
        }
        against = against_feedback(config, tick)
    plain, improved, off = lemma_1(config)
    chebyshev, berry = small_batches(config)
    curves |= {
        "lemma_1": plain, "lemma_1_improved": improved,
        "lemma_5_6": [*chebyshev, *berry],
        "appendix_e_bounds": [against.stochastic, against.feedback],
    }
    compared = {
        key: Comparison(key, found, config.errors, config.slope_tolerance)
        for key, found in curves.items()
    }
    for key in ("theorem_1", "theorem_6", "appendix_d", "lemma_5_6"):
        compared[key].judge(results)
    inside, outside = schedule_of_accepted_steps(config)
    compared["theorem_2"].judge(
        results,
        "where the count of the schedule is that of accepted steps (a schedule inside "
        f"accept_if_lower), ½x² from 0.4γ₀ without noise never moves: "
        f"{inside.ratio[-1]:.3g} of the bound at K = {inside.at[-1]:g}, against "
        f"{outside.ratio[-1]:.2g} by the theorem's steps",
    )
    verdicts.of_votes(config, results, compared["theorem_3"], lemma_8(config))
    verdicts.of_lemma_1(results, compared, off)
    batches = lemma_7(config)
    verdicts.of_lemma_7(results, batches)
    drawn = moments(config)
    verdicts.of_moments(config, results, drawn)
    verdicts.of_appendix_e(config, results, compared["appendix_e_bounds"], against)
    draw_all(config, results, compared, batches, drawn, against, (inside, outside))
    results.finish(_summary(config, compared))
    return compared


def _summary(config: Config, compared: dict[str, Comparison]) -> str:
    """Returns what ran, and the table of all curves."""
    problem = bowl(config.dimension, config.start)
    return (
        f"Stochastic sign descent against its theorems, {config.seeds} seeds. "
        f"Quadratic: d = {config.dimension}, dL̄ = {problem.smooth.sum():.4g}, "
        f"f(x₀) - f* = {problem.gap:.4g}; noise of scale {config.noise:g}, "
        f"so ρ_i is up to {verdicts.start_chance(problem, config.noise):.2f} at the "
        "start. "
        "Chosen here, as the theorems are for any: functions, noise, starts, K, M, γ₀ "
        f"and γ. Slopes from K = {config.fit_from} on.\n\n"
        + summary(list(compared.values()))
    )

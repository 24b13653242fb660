"""Rates of signSGD, majority vote and Signum: the theorems of Bernstein et al.

`python -m experiments rates_sign` holds the library's optimizers against the bounds: a
quadratic whose L_i go from 0.1 to 1, ripples, which are not convex, and a long
valley in which the noise decides how long the way takes. A batch of n divides the
deviation of the noise by √n. The theorems square a mean and count calls of gradients,
N = K²; here the mean itself is compared by K, which is the same.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

import ef_optax
from experiments._checks import check_increasing, check_least, check_not_negative
from experiments._claims import Claim
from experiments._results import Results, progress
from experiments.rates.curves import Comparison, summary
from experiments.rates.sign import verdicts
from experiments.rates.sign.bits import (
    any_noise,
    lemma_d1,
    remark_3,
    repetition,
    votes,
)
from experiments.rates.sign.descent import (
    bowl,
    slope_of_votes,
    theorem_1,
    theorem_2,
    theorem_c1,
    workers_by_noise,
    workers_in_valley,
)
from experiments.rates.sign.figures import draw_all
from experiments.rates.sign.momentum import theorem_3

BOUND = (
    "at every K of {horizons} the mean of {seeds} seeds is at most the bound, up to "
    "{errors:g} standard errors"
)
SLOPE = (
    "; from K = {fit_from} on, the slope in log-log is at most the theorem's + "
    "{slope_tolerance:g}"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Bernstein et al.'s theorems, held against runs with known constants."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "theorem_1", "B", "Theorem 1",
            "signSGD with δ = 1/√(‖L‖₁K) and batches of K: (E mean ‖g_k‖₁)² ≤ "
            "[√‖L‖₁(f₀-f*+½) + 2‖σ‖₁]²/√N with N = K².",
            "on the quadratic with σ_i of {noises} and on the ripples: "
            + BOUND + SLOPE,
            figure="figure_descent.png",
        ),
        Claim(
            "theorem_2a", "B", "Theorem 2 (a)",
            "Majority vote of M workers keeps Theorem 1's bound, whatever the noise.",
            "on the quadratic with σ_i = {vote_noise:g}, Gaussian with M of {workers} "
            "and skewed (Remark 3's law) with M of {skewed_workers}: " + BOUND + SLOPE,
            figure="figure_votes.png",
        ),
        Claim(
            "theorem_2a_votes", "B", "Theorem 2 (a), its proof",
            "For any noise |g| P[vote wrong] ≤ σ, as for one worker: trivially where "
            "S = |g|/σ ≤ 1, and else because votes err less.",
            "with the worst law (two points, Cantelli's inequality sharp) S P[Z ≤ M/2] "
            "is at most 1 for all S ≥ 1 and M up to {most_workers}, ties counted as "
            "wrong; exact sums",
            figure="figure_bits.png",
        ),
        Claim(
            "repetition", "B", "Theorem 2 (a), its proof: repetition code",
            "If each worker errs with probability q < ½, majority vote \"of course "
            "decreases the probability of error\".",
            "P[Z ≤ M/2] ≤ q for q from 0.01 to 0.49 and every M up to {most_workers}, "
            "odd and even, where a tie, sign 0, is not the right sign; exact sums",
            figure="figure_bits.png",
        ),
        Claim(
            "theorem_2b", "B", "Theorem 2 (b)",
            "With unimodal symmetric noise 2‖σ‖₁ becomes 2‖σ‖₁/√M.",
            "Gaussian noise on the quadratic with M of {workers}: " + BOUND + SLOPE
            + "; in the valley, where noise decides, the mean ‖g‖₁ by M of "
            "{valley_workers} is below the bound and falls with slope at most "
            "{vote_slope:g} (theory -1/2); and with skewed noise it does not: slope at "
            "least {skewed_slope:g}",
            figure="figure_votes.png",
        ),
        Claim(
            "binomial_vote", "B", "Theorem 2 (b), its proof",
            "P[Z ≤ M/2] ≤ 1/(√M S) for unimodal symmetric noise.",
            "exact sums for Gaussian noise and for the law with which Lemma D.1 is "
            "sharp, M up to {most_workers}, S from 0.005 to 20",
            figure="figure_bits.png",
        ),
        Claim(
            "remark_3", "B", "Remark 3 of section 4",
            "With P(50) = 0.1 and P(-1) = 0.9 more workers are wrong more often; the "
            "mean of a few tens of samples already has the right sign.",
            "for odd M of {remark_workers} the exact chance that the vote is right "
            "falls each time, the library's vote on {samples} draws agrees within 5 "
            "standard errors, and from M = 30 on the mean is right more often than not",
            figure="figure_bits.png",
        ),
        Claim(
            "section_3", "B", "Section 3 and the proof of Theorem 2",
            "P[wrong sign] ≤ σ/|g| = 1/S, and by Cantelli ≤ 1/(1 + S²), for any noise.",
            "exactly, for unimodal laws and the worst law, S from 0.02 to 6, under the "
            "second, which is at most half of the first",
            figure="figure_bits.png",
        ),
        Claim(
            "lemma_d1", "B", "Lemma D.1",
            "With unimodal symmetric noise P[wrong sign] ≤ 2/(9S²) if S > 2/√3, else "
            "½ - S/(2√3).",
            "exactly, for five laws, S from 0.02 to 6; the library's estimates of "
            "{samples} draws agree with the exact chances within 5 standard errors",
            figure="figure_bits.png",
        ),
        Claim(
            "theorem_3", "B", "Theorem 3 (by Lemmas E.1 and F.2)",
            "Signum with δ_k = δ/√(k+1), batches of k + 1 and a warm-up of C(β) steps: "
            "(E mean ‖g_k‖₁)² = O((1 + log N)²/√N). It has no constants; Lemma E.1 "
            "with ξ of Lemma F.2 has.",
            "with β of {betas}, σ_i of {signum_noises}, δ = {signum_rate:g}: at every "
            "K of {signum_horizons} above 2C the mean of {seeds} seeds is at most "
            "Lemma E.1's first bound, up to {errors:g} standard errors; from K = "
            "{fit_from} on the slope is at most that of (1 + 2 log K)/√K + "
            "{slope_tolerance:g}",
            figure="figure_signum.png",
        ),
        Claim(
            "lemma_f2", "B", "Lemma F.2",
            "Σ E|m̃_k - g_k| ≤ 2(8‖L‖₁δβ/(1-β) + √3‖σ‖₁√(1-β))/√(k+1) for k ≥ C.",
            "in the same runs at k = C and the last k before each K, up to {errors:g} "
            "standard errors",
            figure="figure_signum.png",
        ),
        Claim(
            "theorem_c1", "B", "Theorem C.1",
            "SGD with δ = 1/L and batches of K, or 1/(L√K) and batches of 1: mean "
            "E‖g_k‖² ≤ [2L(f₀-f*) + σ²]/√N.",
            "on the quadratic and on the ripples, both ways: " + BOUND + SLOPE,
            figure="figure_descent.png",
        ),
    )

    horizons: tuple[int, ...] = field(
        default=(16, 32, 64, 128, 256, 512, 1024, 2048),
        metadata={"help": "numbers of steps K"},
    )
    seeds: int = field(default=16, metadata={"help": "runs of each algorithm"})
    dimension: int = field(default=20, metadata={"help": "of the functions"})
    start: float = field(default=1.0, metadata={"help": "each coordinate"})
    noises: tuple[float, ...] = field(
        default=(0.1, 1.0, 10.0), metadata={"help": "σ_i of a batch of 1"}
    )
    vote_noise: float = field(default=30.0, metadata={"help": "σ_i of Theorem 2"})
    workers: tuple[int, ...] = field(
        default=(1, 2, 3, 7, 31), metadata={"help": "M with Gaussian noise"}
    )
    skewed_workers: tuple[int, ...] = field(
        default=(1, 63), metadata={"help": "M with skewed noise"}
    )
    valley_workers: tuple[int, ...] = field(
        default=(3, 7, 15, 31), metadata={"help": "M in the valley"}
    )
    valley_steps: int = field(default=4096, metadata={"help": "K in the valley"})
    vote_slope: float = field(default=-0.35, metadata={"help": "by M, at most"})
    skewed_slope: float = field(
        default=-0.05, metadata={"help": "by M with skewed noise, at least"}
    )
    betas: tuple[float, ...] = field(default=(0.5, 0.9), metadata={"help": "Signum's"})
    signum_noises: tuple[float, ...] = field(
        default=(1.0, 10.0), metadata={"help": "σ_i of Theorem 3"}
    )
    signum_rate: float = field(default=0.1, metadata={"help": "δ of Theorem 3"})
    signum_horizons: tuple[int, ...] = field(
        default=(64, 128, 256, 512, 1024, 2048, 4096),
        metadata={"help": "K of Theorem 3"},
    )
    signals: int = field(default=40, metadata={"help": "values of S = |g|/σ"})
    samples: int = field(default=20000, metadata={"help": "draws for each chance"})
    most_workers: int = field(default=200, metadata={"help": "M in exact sums"})
    remark_workers: tuple[int, ...] = field(
        default=(1, 3, 5, 9, 15, 31, 51), metadata={"help": "M of Remark 3"}
    )
    errors: float = field(default=3.0, metadata={"help": "standard errors allowed"})
    # K steps go √(K/‖L‖₁) far; with skewed noise the runs end 100/√K from 0.
    fit_from: int = field(default=512, metadata={"help": "the least K in slopes"})
    slope_tolerance: float = field(default=0.1, metadata={"help": "of slopes"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        check_increasing(
            self, 1, "horizons", "signum_horizons", "workers", "skewed_workers",
            "valley_workers", "remark_workers",
        )
        check_least(
            self, 1, "seeds", "dimension", "valley_steps", "samples", "most_workers"
        )
        check_not_negative(self, "noises", "signum_noises", "betas")
        if len(self.noises) < 2:
            raise ValueError(f"noises must be at least two; got {self.noises}.")
        check_least(self, 3, "signals")
        bad = [m for m in self.remark_workers if m % 2 == 0]
        if bad:
            raise ValueError(f"remark_workers must be odd; got {bad}.")
        longest = 2 * max(map(ef_optax.signum_warmup_steps, self.betas))
        if self.signum_horizons[-1] <= longest:
            raise ValueError(
                f"signum_horizons must exceed {longest}, twice the longest warm-up; "
                f"got {self.signum_horizons}."
            )


def run(config: Config) -> dict[str, Comparison]:
    """Runs everything; returns what was compared, by claim."""
    results = Results(config.results, "rates_sign", config)
    total = (
        len(config.workers) + len(config.skewed_workers) + len(config.valley_workers)
        + len(config.betas) + 4
    )
    with progress(total, "run") as bar:

        def tick(what: str) -> None:
            bar.set_description(what)
            bar.update()

        alone = theorem_1(config, tick)
        a, b, unsuited = theorem_2(config, tick)
        deep = workers_in_valley(config, tick)
        signum, momentum = theorem_3(config, tick)
        sgd = theorem_c1(config, tick)
    d1, off = lemma_d1(config)
    curves = {
        "theorem_1": alone, "theorem_2a": a, "theorem_2a_votes": votes(config, True),
        "repetition": repetition(config),
        "theorem_2b": [*b, deep], "binomial_vote": votes(config, False),
        "section_3": any_noise(config), "lemma_d1": d1, "theorem_3": signum,
        "lemma_f2": momentum, "theorem_c1": sgd,
    }
    compared = {
        key: Comparison(key, found, config.errors, config.slope_tolerance)
        for key, found in curves.items()
    }
    for key in ("theorem_1", "theorem_2a", "section_3", "theorem_3", "lemma_f2",
                "theorem_c1"):
        compared[key].judge(results)
    for key in ("theorem_2a_votes", "binomial_vote"):
        compared[key].judge(results)
    compared["repetition"].judge(results, analysis=(
        "With an even number of workers a tie is possible, and of two workers one that "
        "errs suffices: 2q - q² is nearly 2q. Odd votes err less, and so do even ones "
        "if a tie counts half, which is what a tie that takes no step costs. What the "
        "theorem needs, |g| P[vote wrong] ≤ σ, survives: see the claim before"
    ))
    verdicts.of_lemma_d1(results, compared["lemma_d1"], off)
    skewed = workers_by_noise(config, unsuited, "skewed")
    verdicts.of_theorem_2b(
        config, results, compared["theorem_2b"], deep, slope_of_votes(config), skewed
    )
    chances = remark_3(config)
    verdicts.of_remark_3(results, chances)
    draw_all(config, results, compared, b, deep, skewed, chances)
    results.finish(_summary(config, compared))
    return compared


def _summary(config: Config, compared: dict[str, Any]) -> str:
    """Returns what ran, and the table of all curves."""
    problem = bowl(config)
    return (
        f"signSGD, majority vote and Signum against their theorems, {config.seeds} "
        f"seeds. Quadratic: d = {config.dimension}, ‖L‖₁ = {problem.smooth.sum():.4g}, "
        f"f(x₀) - f* = {problem.gap:.4g}. Chosen here, as the theorems are for any: "
        "functions, noise, starts, K, M and the δ and β of Theorem 3. Slopes from K = "
        f"{config.fit_from} on.\n\n"
        + summary(list(compared.values()))
    )

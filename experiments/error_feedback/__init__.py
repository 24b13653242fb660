"""The two algorithms of Karimireddy et al., the density of Lemma 8, and Remark 7.

`python -m experiments error_feedback` runs error feedback on f(x) = mean_i |<a_i, x>|,
which is convex with kinks: x is a matrix, the a_i are Gaussian with E‖a_i‖² = 1, and a
stochastic gradient is sign(<a_i, x>) a_i of one random i, so that its second moment is
σ² = mean ‖a_i‖² wherever x is; f* = 0 at x* = 0, and ‖x_0‖ = 1.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import Any, ClassVar

import optax

import ef_optax
from experiments._checks import check_least
from experiments._claims import Claim
from experiments._results import Results, progress
from experiments.error_feedback._found import (
    EF_SIGN,
    IDENTITY,
    SCALED,
    SGD,
    TOP1,
    Found,
    Reached,
)
from experiments.error_feedback._runs import (
    Problem,
    problem_of,
    reach,
    theorem_iii,
    trace,
)
from experiments.error_feedback._shown import figure, summary
from experiments.error_feedback._vectors import losses
from experiments.error_feedback._verdicts import verdicts


@dataclasses.dataclass(frozen=True)
class Config:
    """Error feedback: what it keeps, what a scaled sign loses, and top-1."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "algorithm_1", "K", "Algorithm 1",
            "What compression takes away is stored and added back into the next step, "
            "so that nothing is forgotten: x_t - e_t = x_0 - γ Σ g_i. (The paper "
            "prints x_t + e_t, which its own lines contradict.)",
            "of EF-signSGD the two sides differ by at most {tolerance:g} ‖x_0‖ at "
            "every step of all seeds, and without feedback by more than {apart:g} "
            "‖x_0‖ in the end",
        ),
        Claim(
            "algorithm_2", "K", "Algorithm 2",
            "The same with any compressor; with C(x) = x it is SGD.",
            "the two sides differ by at most {tolerance:g} ‖x_0‖ with top-k, random-k "
            "and k-PCA at every step of all seeds; with C(x) = x the error is exactly "
            "0 at every step, and in no coordinate does the last iterate differ from "
            "SGD's by more than {tolerance:g}",
        ),
        Claim(
            "lemma_8", "K", "Lemma 8",
            "C(v) = ‖v‖₁/d sign(v) is a φ(v)-compressor, φ(v) = ‖v‖₁²/(d‖v‖₂²).",
            "of {vectors} random vectors of each kind ‖C(v) - v‖²/‖v‖² is 1 - φ(v) "
            "within {exact:g} where sign(0) is 1, and at most that where it is 0",
        ),
        Claim(
            "lemma_8_density", "K", "Lemma 8",
            "With one non-zero element φ is as bad as 1/d; of dense vectors it is much "
            "larger.",
            "φ is 1/d within {exact:g} for all vectors with one non-zero element, and "
            "at least {dense:g} for at least 99% of the Gaussian ones",
        ),
        Claim(
            "remark_7", "K", "Remark 7",
            "Top-1 is a 1/d-compressor. With error feedback it is a steepest "
            "coordinate algorithm, and converges on non-smooth functions.",
            "top-1 loses at most 1 - 1/d of ‖v‖² of all those vectors; with feedback a "
            "step changes at most one coordinate; and at Remark 6's step sizes the "
            "mean of f(x̄_T) - f* is below the bound of Theorem III (with the constants "
            "that its proof gives) at all horizons and has a slope of at most "
            "{slope:g} in T + 1, on logarithmic axes",
        ),
    )

    shape: tuple[int, ...] = field(default=(4, 5), metadata={"help": "of the matrix x"})
    rows: int = field(default=200, metadata={"help": "how many a_i"})
    steps: int = field(default=2000, metadata={"help": "of the two algorithms"})
    learning_rate: float = field(default=0.01, metadata={"help": "γ of these"})
    kept: int = field(default=2, metadata={"help": "k of top-k and random-k"})
    rank: int = field(default=1, metadata={"help": "of k-PCA"})
    vectors: int = field(default=1000, metadata={"help": "of each kind, for Lemma 8"})
    dimension: int = field(default=1000, metadata={"help": "of these vectors"})
    horizons: tuple[int, ...] = field(
        default=(1000, 3000, 10_000, 30_000, 100_000),
        metadata={"help": "T of Remark 7, each a run of its own"},
    )
    seeds: int = field(default=20, metadata={"help": "how many, of all that is random"})
    tolerance: float = field(
        default=1e-4, metadata={"help": "for sums of many rounded numbers"}
    )
    apart: float = field(default=0.01, metadata={"help": "and what is more than that"})
    exact: float = field(default=1e-5, metadata={"help": "for ratios of norms"})
    dense: float = field(default=0.5, metadata={"help": "least φ of a dense vector"})
    slope: float = field(default=-0.4, metadata={"help": "the theorem's is -1/2"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        if len(self.shape) != 2 or min(self.shape) < 2:
            raise ValueError(
                f"shape must be two sizes of at least 2; got {self.shape}."
            )
        check_least(self, 1, "rows", "steps", "kept", "rank", "vectors", "seeds")
        check_least(self, 2, "dimension")
        if self.kept > math.prod(self.shape) or self.rank > min(self.shape):
            raise ValueError(
                f"kept must be at most {math.prod(self.shape)} and rank at most "
                f"{min(self.shape)} for shape {self.shape}; got {self.kept} and "
                f"{self.rank}."
            )
        if len(set(self.horizons)) < 2 or min(self.horizons) < 1:
            raise ValueError(
                f"horizons must be at least two, of at least 1; got {self.horizons}."
            )
        if self.learning_rate <= 0:
            raise ValueError(
                f"learning_rate must be positive; got {self.learning_rate:g}."
            )


def run(config: Config) -> Found:
    """Runs all; returns what was measured."""
    results = Results(config.results, "error_feedback", config)
    found = measure(config)
    for label, measured in found.algorithms.items():
        gaps = measured.gap.max(axis=0)
        results.metric(
            part="algorithms", algorithm=label, gap=gaps, greatest=gaps.max()
        )
    for kind, columns in found.lost.items():
        ranges = {n: [v.min(), v.mean(), v.max()] for n, v in columns.items()}
        results.metric(part="vectors", kind=kind, least_mean_greatest=ranges)
    for label, several in found.top1.items():
        for horizon, one in zip(config.horizons, several, strict=True):
            results.metric(part="top-1", algorithm=label, horizon=horizon,
                           **one._asdict())
    for key, holds, number, why in verdicts(config, found):
        results.verdict(key, holds, number, "" if holds else why)
    results.figure(figure(config, found))
    results.finish(summary(config, found))
    return found


def measure(config: Config) -> Found:
    """Measures all."""
    problem, algorithms = problem_of(config), {}
    named = _algorithms(config)
    with progress(len(named) + 3, "part") as bar:
        for label, optimizer in named.items():
            bar.set_description(label)
            algorithms[label] = trace(
                problem, optimizer, config.learning_rate, config.steps
            )
            bar.update()
        bar.set_description("vectors")
        lost = losses(config)
        bar.update()
        top1 = {}
        for label, compressor in {
            TOP1: ef_optax.top_k(k=1), SGD: ef_optax.identity()
        }.items():
            bar.set_description(f"{label}, all horizons")
            top1[label] = _converges(config, problem, label, compressor)
            bar.update()
    return Found(algorithms, lost, top1)


def _algorithms(config: Config) -> dict[str, Any]:
    rate, kept = config.learning_rate, config.kept
    return {
        EF_SIGN: ef_optax.ef_sign_sgd(rate),
        SCALED: ef_optax.scaled_sign_sgd(rate),
        f"EF top-{kept}": ef_optax.ef_sgd(rate, ef_optax.top_k(k=kept)),
        f"EF random-{kept}": ef_optax.ef_sgd(rate, ef_optax.random_k(k=kept, key=0)),
        f"EF {config.rank}-PCA": ef_optax.ef_sgd(rate, ef_optax.k_pca(config.rank)),
        IDENTITY: ef_optax.ef_sgd(rate, ef_optax.identity()),
        SGD: optax.sgd(rate),
    }


def _converges(
    config: Config, problem: Problem, label: str, compressor: Any
) -> list[Reached]:
    """Returns what each horizon reaches at the step size of Remark 6."""
    delta = 1 / math.prod(config.shape) if label == TOP1 else 1.0
    known = [theorem_iii(problem.sigma, n, delta) for n in config.horizons]
    reached = reach(
        problem, lambda rate: ef_optax.ef_sgd(rate, compressor),
        [rate for rate, _ in known], config.horizons,
    )
    return [
        Reached(rate, bound, value, most)
        for (rate, bound), (value, most) in zip(known, reached, strict=True)
    ]

"""What the study of majority vote runs, and what the papers claim of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import field
from typing import ClassVar, Literal

from experiments._checks import check_least, check_positive, check_tuning
from experiments._claims import Claim
from experiments.voting._methods import METHODS

REDUCED = "a small network on small digits in place of deep ones on CIFAR and ImageNet"

CLAIMS = (
    Claim(
        "theorem2_a", "B", "Theorem 2 (a)",
        "Majority vote with M workers converges at least as fast as signSGD.",
        "after the same {steps} steps, of one size of batch for each worker and a "
        "learning rate tuned for each M, mean training loss with every M is at most "
        "that with 1 worker",
        reduced=REDUCED,
    ),
    Claim(
        "theorem2_b", "B", "Theorem 2 (b)",
        "Where noise is unimodal and symmetric, M workers reduce its part in the rate "
        "from sigma to sigma/sqrt(M).",
        "mean training loss after these steps falls from each number of workers to "
        "the next larger one",
        reduced=REDUCED,
    ),
    Claim(
        "theorem2_proof", "B", "Section 4 and the proof of Theorem 2 (b)",
        "The sum of |g_i| P[vote wrong] is at most |sigma|_1/sqrt(M).",
        "so at {points} points of a run with 1 worker, from {draws} votes for every "
        "number of workers",
        reduced=REDUCED, figure="figure_noise.png",
    ),
    Claim(
        "repetition_code", "B", "Section 4",
        "The server receives a repetition code of the true signs, and voting drives "
        "down the probability of failure.",
        "at the same points the mean of P[vote wrong], weighted with |g_i|, falls from "
        "each number of workers to the next",
        reduced=REDUCED, figure="figure_noise.png",
    ),
    Claim(
        "remark_3", "B", "Section 4, Remarks 1 and 3",
        "Noise is about symmetric and unimodal, the more so the larger the batch; were "
        "it so skewed that signs lean to the wrong side, more workers would be worse.",
        "at the same points coordinates whose stochastic signs lean against the "
        "gradient's, by more than two standard errors, have at most {skewed:g} of "
        "|g|_1",
        reduced=REDUCED, figure="figure_noise.png",
    ),
    Claim(
        "adversaries", "B", "Section 4; the fault tolerance of its sequel of 2019",
        "A vote of the repetition code survives fewer than half of the workers sending "
        "the opposite.",
        "with the largest part of adversaries, of {adversaries} among the most "
        "workers, mean test accuracy of signSGD by vote is at most {robust:g} points "
        "below that without any",
        reduced=REDUCED,
    ),
    Claim(
        "table1", "B", "Table 1",
        "A step takes 64 M d bits with SGD and 2 M d with majority vote.",
        "bytes that each of the most workers sends in a step, read off the programs: "
        "those of SGD are 32 times those of the packed vote, but for a part of "
        "{overhead:g}",
        reduced="no server: workers serve a shard of the coordinates each",
    ),
    Claim(
        "both_ways", "B", "Section 4",
        "All communication of majority vote is 1-bit compressed, in both directions.",
        "with the fewest and the most of several workers each sends, and receives, at "
        "most 2 (1 + {overhead:g}) bits a parameter by packed vote",
        reduced="no server: workers serve a shard of the coordinates each",
    ),
    Claim(
        "bits_per_accuracy", "B", "Section 4 and Section 7",
        "Majority vote, 1 bit in both directions, promises fast convergence with "
        "little communication.",
        "signSGD and Signum by packed vote are within {tolerance:g} point of SGD's "
        "last mean test accuracy after sending at most {share:g} of the bytes that SGD "
        "had sent when it was",
        reduced=REDUCED,
    ),
    Claim(
        "message", "K", "Section 6.1",
        "EF-signSGD communicates the sum over layers of d_i + 32 bits.",
        "the message in the compiled program is at most {overhead:g} larger",
        figure="",
    ),
    Claim(
        "factor_64", "K", "Section 1",
        "Communication is reduced by a factor of 64.",
        "the message of EF-signSGD takes at most 1/64 of the bytes of the gradient, in "
        "float32 as it is computed",
        figure="",
    ),
    Claim(
        "ef_matches_sgd", "K", "Section 6.2",
        "EF-signSGD almost matches SGD on test, and is better than scaled sign without "
        "error feedback.",
        "last mean test accuracy of EF-signSGD, gathered and two-way, is at most "
        "{tolerance:g} point below SGD's, and at least that of scaled sign",
        reduced=REDUCED,
    ),
)


# What `--tune` found on the digits: with the most workers, and by number of voters.
RATES = {
    "sgd": 0.3, "sign_sgd": 1e-3, "sign_sgd_packed": 1e-3, "signum_packed": 3e-4,
    "scaled_sign": 0.3, "ef_sign_sgd": 1.0, "ef_two_way": 0.3,
}
VOTE_RATES = {"1": 1e-3, "3": 1e-3, "5": 1e-3, "7": 1e-3, "15": 1e-3}


@dataclasses.dataclass(frozen=True)
class Config:
    """Majority vote with more workers, with adversaries, and bit for bit."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = CLAIMS

    data: Literal["digits", "mnist"] = field(
        default="digits", metadata={"help": "scikit-learn's 1797 digits, or MNIST"}
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "where MNIST's IDX files are, .gz or not", "place": True},
    )
    workers: tuple[int, ...] = field(
        default=(1, 3, 5, 7, 15), metadata={"help": "how many vote, rising from 1"}
    )
    methods: tuple[str, ...] = field(
        default=tuple(METHODS),
        metadata={"help": "to compare; claims on others are left open"},
    )
    batch_size: int = field(default=8, metadata={"help": "of every worker"})
    widths: tuple[int, ...] = field(
        default=(128, 64), metadata={"help": "of the hidden layers"}
    )
    steps: int = field(default=600, metadata={"help": "of every training"})
    every: int = field(default=25, metadata={"help": "steps between two looks"})
    seeds: tuple[int, ...] = field(
        default=(1, 2, 3, 4, 5), metadata={"help": "of initial values and batches"}
    )
    adversaries: tuple[int, ...] = field(
        default=(0, 2, 4, 6),
        metadata={"help": "of the most workers; rising from 0, fewer than half"},
    )
    learning_rates: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "with the most workers, in place of the tuned, by method"},
    )
    vote_rates: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "of signSGD in place of the tuned, by number of workers"},
    )
    sample: int = field(
        default=2000, metadata={"help": "training examples that training loss is of"}
    )
    points: int = field(default=4, metadata={"help": "where noise is measured"})
    draws: int = field(default=200, metadata={"help": "votes at each point"})
    larger: int = field(
        default=8, metadata={"help": "times larger batches, once at the last point"}
    )
    split_seed: int = field(
        default=0, metadata={"help": "of the test and validation parts"}
    )
    tune: bool = field(
        default=False, metadata={"help": "search the learning rates, and stop there"}
    )
    tune_grid: tuple[float, ...] = field(
        default=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0),
        metadata={"help": "learning rates to try"},
    )
    tune_seeds: tuple[int, ...] = field(
        default=(11, 12, 13), metadata={"help": "for the search"}
    )
    validation: float = field(
        default=0.2, metadata={"help": "part of the training data to tune on"}
    )
    tolerance: float = field(
        default=1.0, metadata={"help": "points of accuracy that count as the same"}
    )
    robust: float = field(
        default=5.0, metadata={"help": "points that adversaries may cost"}
    )
    skewed: float = field(
        default=0.1, metadata={"help": "part of |g|_1 that may lean the wrong way"}
    )
    overhead: float = field(
        default=0.02, metadata={"help": "of a message: scales, flags, bits to a byte"}
    )
    share: float = field(
        default=0.1, metadata={"help": "of SGD's bytes that a vote may need"}
    )
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Fills in the learning rates, and refuses what cannot run."""
        self._check_numbers()
        unknown = sorted({*self.learning_rates, *self.methods} - set(METHODS))
        if unknown or "sign_sgd" not in self.methods:
            raise ValueError(
                f"methods must be some of {', '.join(METHODS)}, and sign_sgd among "
                f"them; got {', '.join(unknown or self.methods) or 'none'}."
            )
        rates = RATES | self.learning_rates
        votes = VOTE_RATES | self.vote_rates
        for name, given in (("learning_rates", rates), ("vote_rates", votes)):
            if not all(0 < rate < math.inf for rate in given.values()):
                raise ValueError(f"{name} must be positive; got {given}.")
        missing = [str(n) for n in self.workers if str(n) not in votes]
        if missing and not self.tune:
            raise ValueError(
                f"there is no learning rate for {', '.join(missing)} workers; give "
                f"--vote-rates {missing[0]}=RATE, or find one by --tune."
            )
        object.__setattr__(self, "learning_rates", rates)
        object.__setattr__(
            self, "vote_rates", {str(n): votes.get(str(n), 0.0) for n in self.workers}
        )

    def _check_numbers(self) -> None:
        workers, against = self.workers, self.adversaries
        if not workers or workers[0] != 1 or len(workers) < 2 or _not_rising(workers):
            raise ValueError(
                f"workers must rise from 1, at least two numbers; got {workers}."
            )
        if not against or against[0] != 0 or len(against) < 2 or _not_rising(against):
            raise ValueError(
                f"adversaries must rise from 0, at least two numbers; got {against}."
            )
        if 2 * against[-1] >= workers[-1]:
            raise ValueError(
                f"adversaries must be fewer than half of {workers[-1]} workers; got "
                f"{against[-1]}."
            )
        check_least(
            self, 1, "batch_size", "steps", "every", "sample", "points", "draws",
            "larger",
        )
        looks = self.steps // self.every
        if self.steps % self.every or looks < self.points:
            raise ValueError(
                f"steps must be a multiple of every, at least points times; got "
                f"{self.steps}, {self.every} and {self.points} points."
            )
        check_tuning(self)
        check_positive(self, "tune_grid", below=math.inf)


def _not_rising(numbers: tuple[int, ...]) -> bool:
    return any(a >= b for a, b in itertools.pairwise(numbers))

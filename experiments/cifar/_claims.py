"""What Karimireddy et al. claim on CIFAR, and the verdicts at our scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments._claims import Claim
from experiments._results import spread
from experiments.cifar._algorithms import ALGORITHMS
from experiments.cifar._runs import Ended

# From a configuration and what was reached to whether it holds, the number and why.
Judge = Callable[[Any, "Reached"], tuple[bool, str, str]]

REDUCED = (
    "a ResNet of 78,042 parameters on 16 x 16 pixels, 5,000 training and 5,000 test "
    "images of CIFAR-10, 30 epochs instead of 200"
)
ACCELERATOR = (
    "200 epochs of this network at three batch sizes, 4 algorithms and 3 seeds take "
    "weeks on two cores; the command runs unchanged on an accelerator"
)

FIGURE2 = Claim(
    "density", "K", "Figure 2",
    "The density of the error-corrected gradients of EF-signSGD stays above 0.13 "
    "(VGG19 on CIFAR-10, a batch of 128).",
    "the mean of φ(γg + e) of every epoch is above {dense:g} at the largest batch",
    figure="figure_densities.png",
)

SMALL = (
    Claim(
        "scaled_gap", "K", "Tables 1, 3 and 4: scaled signSGD",
        "Without error feedback the gap of scaled signSGD to SGDm opens as the batch "
        "shrinks: 2.21, 3.04, 36.35 points on CIFAR-100 and 1.31, 1.49, 20.22 on "
        "CIFAR-10 at batches of 128, 32, 8.",
        "its gap in mean test accuracy grows by at least {opening:g} points from the "
        "largest batch to the smallest",
        reduced=REDUCED,
    ),
    Claim(
        "ef_gap", "K", "Tables 1, 3 and 4: EF-signSGD",
        "EF-signSGD stays close to SGDm at every batch size: 0.92, 0.79, 0.64 points "
        "below on CIFAR-100 and 0.68, 0.71, 0.27 on CIFAR-10.",
        "its mean test accuracy is at most {close:g} points below SGDm's at every "
        "batch size",
        reduced=REDUCED,
    ),
    Claim(
        "signum_gap", "K", "Tables 1, 3 and 4: signSGDm",
        "The gap of signSGDm grows as the batch shrinks: 3.15, 3.57, 6.6 points on "
        "CIFAR-100 and 0.94, 1.54, 2.75 on CIFAR-10.",
        "its gap in mean test accuracy is larger at the smallest batch than at the "
        "largest",
        reduced=REDUCED,
    ),
    Claim(
        "ef_best", "K", "Figures 4, 6 and 7: test",
        "EF-signSGD consistently outperforms the other sign-based methods on test.",
        "its mean test accuracy is the greatest of the three at every batch size",
        reduced=REDUCED,
    ),
    Claim(
        "ef_train", "K", "Figures 4, 6 and 7: training",
        "EF-signSGD is faster than SGDm on the training data at all batch sizes.",
        "its mean training loss of the last epoch is below SGDm's at every batch size",
        reduced=REDUCED,
    ),
    FIGURE2._replace(reduced=REDUCED),
)

RESNET20 = (
    FIGURE2._replace(
        reduced="ResNet-20 instead of VGG19, 8 epochs instead of 200, one seed"
    ),
)

RESNET18 = (
    Claim(
        "table", "K", "Tables 1 and 3, Figures 4 and 6 at full scale",
        "CIFAR-100, ResNet-18, batches of 128, 32, 8: SGDm 75.35, 76.22, 74.91 %; "
        "scaled signSGD 2.21, 3.04, 36.35 points below, signSGDm 3.15, 3.57, 6.6, "
        "EF-signSGD 0.92, 0.79, 0.64.",
        "EF-signSGD's gap is the smallest of the three at each batch size and at most "
        "{close:g} points",
        not_run=ACCELERATOR,
    ),
)

VGG19 = (
    Claim(
        "table", "K", "Table 4 and Figure 7 at full scale",
        "CIFAR-10, VGG19, batches of 128, 32, 8: SGDm 93.38, 93.42, 93.09 %; scaled "
        "signSGD 1.31, 1.49, 20.22 points below, signSGDm 0.94, 1.54, 2.75, EF-signSGD "
        "0.68, 0.71, 0.27.",
        "EF-signSGD's gap is the smallest of the three at each batch size and at most "
        "{close:g} points",
        not_run=ACCELERATOR,
    ),
    FIGURE2._replace(where="Figure 2 at full scale", not_run=ACCELERATOR),
)


def judged(config: Any, ended: Sequence[Ended]) -> dict[str, tuple[bool, str, str]]:
    """Returns for each claim of a configuration whether it holds, the number, why."""
    reached = Reached(ended, config.protocol)
    trained = {one.job.algorithm for one in ended}
    out = {}
    for claim in config.CLAIMS:
        judge, needed = JUDGES[claim.key]
        lacking = [name for name in needed if name not in trained]
        if not lacking:
            out[claim.key] = judge(config, reached)
        elif not claim.not_run:
            out[claim.key] = False, "", f"{', '.join(lacking)} did not run"
    return out


class Reached:
    """What trainings reached: by algorithm and batch size, a value for each seed."""

    def __init__(self, ended: Sequence[Ended], protocol: str):
        self.sizes = sorted({one.job.batch_size for one in ended}, reverse=True)
        self._original = protocol == "original"
        self._of: dict[tuple[str, int], list[Ended]] = {}
        for one in sorted(ended, key=lambda one: one.job.seed):
            key = one.job.algorithm, one.job.batch_size
            self._of.setdefault(key, []).append(one)

    def accuracy(self, name: str, size: int) -> np.ndarray:
        """Returns test accuracies of the last epoch.

        By the original protocol those of the epoch at which their mean is greatest.
        """
        done = self._of[name, size]
        if not self._original or any(one.diverged for one in done):
            return np.array([one.last("test_accuracy") for one in done])
        each = np.stack([one.columns["test_accuracy"] for one in done])
        return each[:, each.mean(axis=0).argmax()]

    def gap(self, name: str, size: int) -> np.ndarray:
        """Returns how many points an algorithm is below SGDm, seed by seed."""
        return self.accuracy("sgdm", size) - self.accuracy(name, size)

    def loss(self, name: str, size: int) -> np.ndarray:
        """Returns the training losses of the last epoch."""
        return np.array([one.last("train_loss") for one in self._of[name, size]])

    def density(self, name: str, size: int) -> np.ndarray:
        """Returns the least φ(γg + e) of any epoch's mean."""
        return np.array([
            np.nanmin(one.columns["corrected_density"]) for one in self._of[name, size]
        ])

    def gaps(self, name: str) -> str:
        """Returns the gaps as text."""
        each = (f"{size}: {spread(self.gap(name, size))}" for size in self.sizes)
        return f"points below SGDm at batch {', '.join(each)}"

    def all_gaps(self) -> str:
        """Returns the gaps of the three sign-based methods as text."""
        return (
            f"EF-signSGD {self.gaps('ef_sign')}; scaled signSGD "
            f"{self.gaps('scaled_sign')}; signSGDm {self.gaps('signum')}"
        )

    def ahead_of_ef(self) -> list[str]:
        """Returns where another sign-based method's gap is no larger than EF's."""
        leads = {
            (name, size): self.gap("ef_sign", size).mean() - self.gap(name, size).mean()
            for name in ("scaled_sign", "signum") for size in self.sizes
        }
        return [
            f"{ALGORITHMS[name].label} by {lead:.2f} points at batch {size}"
            for (name, size), lead in leads.items() if not lead < 0
        ]


def _opens(reached: Reached, name: str) -> float:
    """Returns by how much the mean gap grows from the largest batch to the smallest."""
    large, small = reached.sizes[0], reached.sizes[-1]
    return float(reached.gap(name, small).mean() - reached.gap(name, large).mean())


def _shorter(config: Any) -> str:
    """Says by how much a training is shorter than the paper's, if it is."""
    seen, theirs = config.epochs * config.train_images, 200 * 50_000
    if not 0 < seen < theirs:
        return ""
    return (
        f"; a training sees {theirs / seen:.0f} times fewer images than the paper's, "
        "and its network is smaller"
    )


def _gap(
    config: Any, reached: Reached, name: str, opens: float, holds: bool
) -> tuple[bool, str, str]:
    return holds, reached.gaps(name), "" if holds else (
        f"the gap grew by {opens:.2f} points from the largest batch to the smallest"
        + _shorter(config)
    )


def _scaled_gap(config: Any, reached: Reached) -> tuple[bool, str, str]:
    opens = _opens(reached, "scaled_sign")
    return _gap(config, reached, "scaled_sign", opens, opens >= config.opening)


def _signum_gap(config: Any, reached: Reached) -> tuple[bool, str, str]:
    opens = _opens(reached, "signum")
    return _gap(config, reached, "signum", opens, opens > 0)


def _ef_gap(config: Any, reached: Reached) -> tuple[bool, str, str]:
    holds = all(
        reached.gap("ef_sign", s).mean() <= config.close for s in reached.sizes
    )
    return holds, reached.gaps("ef_sign"), "" if holds else (
        "EF-signSGD fell further behind than allowed"
    )


def _ef_best(config: Any, reached: Reached) -> tuple[bool, str, str]:
    ahead = reached.ahead_of_ef()
    return not ahead, reached.all_gaps(), "" if not ahead else (
        f"ahead of EF-signSGD: {', '.join(ahead)}" + _shorter(config)
    )


def _ef_train(config: Any, reached: Reached) -> tuple[bool, str, str]:
    pairs = {s: (reached.loss("ef_sign", s), reached.loss("sgdm", s))
             for s in reached.sizes}
    holds = all(ef.mean() < sgdm.mean() for ef, sgdm in pairs.values())
    number = "training loss of EF-signSGD and of SGDm at batch " + ", ".join(
        f"{s}: {spread(ef, 3)} and {spread(sgdm, 3)}"
        for s, (ef, sgdm) in pairs.items()
    )
    behind = [
        f"{s} by {spread(ef - sgdm, 3)}"
        for s, (ef, sgdm) in pairs.items() if ef.mean() >= sgdm.mean()
    ]
    return holds, number, "" if holds else (
        f"SGDm's training loss was lower at batch {', '.join(behind)}; each learning "
        "rate was chosen by held-out accuracy, not by training loss" + _shorter(config)
    )


def _density(config: Any, reached: Reached) -> tuple[bool, str, str]:
    size = reached.sizes[0]
    least = reached.density("ef_sign", size)
    holds = bool((least > config.dense).all())
    number = f"least φ(γg + e) of any epoch {spread(least, 3)} at batch {size}"
    return holds, number, "" if holds else "some epoch's mean was lower"


def _table(config: Any, reached: Reached) -> tuple[bool, str, str]:
    holds = not reached.ahead_of_ef() and _ef_gap(config, reached)[0]
    return holds, reached.all_gaps(), "" if holds else (
        "EF-signSGD's gap was too large, or not the least"
    )


FOUR = ("sgdm", "scaled_sign", "signum", "ef_sign")

# For each claim how it is judged, and which algorithms that needs.
JUDGES: dict[str, tuple[Judge, tuple[str, ...]]] = {
    "scaled_gap": (_scaled_gap, ("sgdm", "scaled_sign")),
    "signum_gap": (_signum_gap, ("sgdm", "signum")),
    "ef_gap": (_ef_gap, ("sgdm", "ef_sign")),
    "ef_train": (_ef_train, ("sgdm", "ef_sign")),
    "density": (_density, ("ef_sign",)),
    "ef_best": (_ef_best, FOUR),
    "table": (_table, FOUR),
}

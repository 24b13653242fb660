"""What Karimireddy et al. claim on CIFAR, and the verdicts at our scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments._claims import Claim
from experiments._results import spread
from experiments.cifar._runs import Ended

REDUCED = (
    "a ResNet of 78,042 parameters on 16 x 16 pixels, 5,000 training and 5,000 test "
    "images of CIFAR-10, 30 epochs instead of 200"
)
ACCELERATOR = (
    "200 epochs of this network at three batch sizes, 4 algorithms and 3 seeds take "
    "weeks on two cores; the command runs unchanged on an accelerator"
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
)

RESNET18 = (
    Claim(
        "table1", "K", "Tables 1 and 3, Figures 4 and 6 at full scale",
        "CIFAR-100, ResNet-18, batches of 128, 32, 8: SGDm 75.35, 76.22, 74.91 %; "
        "scaled signSGD 2.21, 3.04, 36.35 points below, signSGDm 3.15, 3.57, 6.6, "
        "EF-signSGD 0.92, 0.79, 0.64.",
        "EF-signSGD's gap is the smallest of the three at each batch size and at most "
        "2 points",
        not_run=ACCELERATOR,
    ),
)

VGG19 = (
    Claim(
        "table4", "K", "Table 4 and Figure 7 at full scale",
        "CIFAR-10, VGG19, batches of 128, 32, 8: SGDm 93.38, 93.42, 93.09 %; scaled "
        "signSGD 1.31, 1.49, 20.22 points below, signSGDm 0.94, 1.54, 2.75, EF-signSGD "
        "0.68, 0.71, 0.27.",
        "EF-signSGD's gap is the smallest of the three at each batch size and at most "
        "2 points",
        not_run=ACCELERATOR,
    ),
    Claim(
        "figure2", "K", "Figure 2 at full scale",
        "The density of the error-corrected gradients of EF-signSGD stays above 0.13 "
        "on VGG19 at a batch of 128.",
        "the mean of φ(γg + e) of every epoch is above 0.13",
        not_run=ACCELERATOR, figure="figure_densities.png",
    ),
)


def judged(config: Any, ended: Sequence[Ended]) -> dict[str, tuple[bool, str, str]]:
    """Returns whether each claim of a configuration holds, the number and why."""
    if not any(claim.key == "scaled_gap" for claim in config.CLAIMS):
        return {}
    gaps = {name: _gaps(ended, name) for name in ("scaled_sign", "signum", "ef_sign")}
    sizes = sorted({one.job.batch_size for one in ended}, reverse=True)
    large, small = sizes[0], sizes[-1]

    def number(name: str) -> str:
        each = ", ".join(f"{size}: {spread(gaps[name][size])}" for size in sizes)
        return f"points below SGDm at batch {each}"

    def mean(name: str, size: int) -> float:
        return float(np.mean(gaps[name][size]))

    out = {
        "scaled_gap": (
            mean("scaled_sign", small) - mean("scaled_sign", large) >= config.opening,
            number("scaled_sign"),
            "scaled signSGD did not fall further behind at the small batch",
        ),
        "ef_gap": (
            all(mean("ef_sign", size) <= config.close for size in sizes),
            number("ef_sign"), "EF-signSGD fell behind further than allowed",
        ),
        "signum_gap": (
            mean("signum", small) > mean("signum", large), number("signum"),
            "signSGDm did not fall further behind at the small batch",
        ),
        "ef_best": (
            all(mean("ef_sign", size) < min(mean("signum", size),
                                            mean("scaled_sign", size))
                for size in sizes),
            f"EF-signSGD {number('ef_sign')}; scaled signSGD {number('scaled_sign')}; "
            f"signSGDm {number('signum')}",
            "another sign-based method was ahead at some batch size",
        ),
    }
    losses = {
        (name, size): [one.last("train_loss") for one in ended
                       if (one.job.algorithm, one.job.batch_size) == (name, size)]
        for name in ("sgdm", "ef_sign") for size in sizes
    }
    out["ef_train"] = (
        all(np.mean(losses["ef_sign", s]) < np.mean(losses["sgdm", s]) for s in sizes),
        "training loss of EF-signSGD and of SGDm at batch " + ", ".join(
            f"{s}: {spread(losses['ef_sign', s], 3)} and {spread(losses['sgdm', s], 3)}"
            for s in sizes),
        "SGDm's training loss was lower at some batch size",
    )
    return out


def _gaps(ended: Sequence[Ended], name: str) -> dict[int, list[float]]:
    """Returns SGDm's test accuracy minus an algorithm's, seed by seed."""
    found = {
        (one.job.algorithm, one.job.batch_size, one.job.seed): one.last("test_accuracy")
        for one in ended
    }
    gaps: dict[int, list[float]] = {}
    for (algorithm, size, seed), accuracy in found.items():
        if algorithm == name:
            gaps.setdefault(size, []).append(found["sgdm", size, seed] - accuracy)
    return gaps

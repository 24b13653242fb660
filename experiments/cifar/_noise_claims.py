"""What Bernstein et al. claim of gradient and noise, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._claims import Claim
from experiments._results import spread
from experiments.cifar._algorithms import ALGORITHMS

FIGURE1, FIGURE2 = "Figure 1", "Figure 2"
REDUCED = (
    "a ResNet of 78,042 parameters on 16 x 16 pixels, 3,200 training images of "
    "CIFAR-10, 15 epochs instead of 160, 2 seeds instead of 3"
)
ACCELERATOR = (
    "320 passes of ResNet-20 over CIFAR-10 for each of 9 trainings take weeks on two "
    "cores; the command runs unchanged on an accelerator"
)

SMALL = (
    Claim(
        "dense", "B", FIGURE1,
        "Both gradient and noise are dense during an entire training run of ResNet-20 "
        "on CIFAR-10 with SGD, Signum and Adam.",
        "φ(g) and φ(σ) are at least {dense:g} at the beginning of every measured "
        "epoch of every training",
        reduced=REDUCED,
    ),
    Claim(
        "same_order", "B", FIGURE1,
        "The gradient density and noise density are of the same order throughout "
        "training, so that R2 = φ(σ)/φ(g) is not much greater than 1.",
        "R2 is between 1/{same_order:g} and {same_order:g} at the beginning of every "
        "measured epoch of every training",
        reduced=REDUCED,
    ),
    Claim(
        "coupled", "B", FIGURE1,
        "The densities appear to be coupled during training.",
        "the correlation of log φ(g) with log φ(σ) over the measured epochs of a "
        "training, mean over all trainings, is at least {coupled:g}",
        reduced=REDUCED,
    ),
    Claim(
        "jumps", "B", FIGURE1,
        "Noticeable jumps occur at epoch 80 and 120 when the learning rate is "
        "decimated.",
        "for each algorithm the change of log φ(g), or of log φ(σ), across the drops "
        "of the learning rate, mean over drops and seeds, is at least {jump:g} times "
        "the median change between other successive measurements after the first "
        "{settling:g} of all epochs",
        reduced=REDUCED,
    ),
    Claim(
        "unimodal", "B", FIGURE2,
        "The noise in the stochastic gradient of randomly chosen parameters, not "
        "cherry-picked, at epoch 50 of ResNet-20 with SGD, Signum and Adam, batch 128, "
        "appears to be unimodal.",
        "of {parameters} parameters drawn with seed {parameter_seed}, with all "
        "algorithms, at least a part of {share:g} does not refuse unimodality at the "
        "level of {level:g} (a dip-like test, calibrated on the uniform distribution)",
        reduced=REDUCED, figure="figure_noise.png",
    ),
    Claim(
        "symmetric", "B", FIGURE2,
        "The same noise appears to be approximately symmetric.",
        "of the same parameters at least a part of {share:g} has a skewness between "
        "-{skewness:g} and {skewness:g}",
        reduced=REDUCED, figure="figure_noise.png",
    ),
    Claim(
        "imagenet", "B", f"{FIGURE2}, bottom row",
        "For a batch of 256 ImageNet images, ResNet-50 at epoch 50, the central limit "
        "theorem has visibly kicked in and the distributions look Gaussian.",
        "as for the top row, of ResNet-20",
        not_run="ImageNet and ResNet-50 are out of reach of this study", figure="",
    ),
)

FULL = tuple(
    claim if claim.not_run else claim._replace(reduced="", not_run=ACCELERATOR)
    for claim in SMALL
)


class Series(NamedTuple):
    """The densities of one training at the beginning of its measured epochs."""

    algorithm: str
    seed: int
    epochs: np.ndarray
    gradient: np.ndarray
    noise: np.ndarray


def judged(
    config: Any, series: Sequence[Series], shapes: Mapping[str, Any]
) -> dict[str, tuple[bool, str, str]]:
    """Returns whether each claim holds, the number and why.

    Args:
      config: of the study.
      series: of every training.
      shapes: by algorithm, skewness and p-value of each parameter.
    """
    gradient, noise = (
        np.concatenate([getattr(one, name) for one in series])
        for name in ("gradient", "noise")
    )
    ratio = noise / gradient
    later = np.concatenate([one.noise[1:] / one.gradient[1:] for one in series])
    out = {
        "dense": (
            bool((gradient >= config.dense).all() and (noise >= config.dense).all()),
            f"φ(g) {_range(gradient)}, φ(σ) {_range(noise)}",
            f"{_part(gradient < config.dense)} of the measured φ(g) and "
            f"{_part(noise < config.dense)} of the φ(σ) are below {config.dense:g}: "
            "all parameters are one vector here, and layers whose gradients differ in "
            "scale make it sparser than each of them is",
        ),
        "same_order": (
            bool(((ratio >= 1 / config.same_order)
                  & (ratio <= config.same_order)).all()),
            f"R2 {_range(ratio)}",
            f"R2 is above {config.same_order:g} at {_part(ratio > config.same_order)} "
            f"of the measured epochs, below 1/{config.same_order:g} at "
            f"{_part(ratio < 1 / config.same_order)}; after the first measurement "
            + (f"it is {_range(later)}" if later.size else "there was none"),
        ),
    }
    couplings = [_coupling(one) for one in series]
    by_name = {
        name: [c for c, one in zip(couplings, series, strict=True)
               if one.algorithm == name]
        for name in dict.fromkeys(one.algorithm for one in series)
    }
    number = ", ".join(f"{ALGORITHMS[n].label} {spread(c)}" for n, c in by_name.items())
    out["coupled"] = (
        bool(np.mean(couplings) >= config.coupled),
        f"correlation {number}; mean {np.mean(couplings):.2f}",
        "the two densities do not move together closely enough at this scale",
    )
    jumps = {name: _jumps(config, series, name) for name in by_name}
    out["jumps"] = (
        all(max(both) >= config.jump for both in jumps.values()),
        "times the median change, of φ(g) and of φ(σ): " + ", ".join(
            f"{ALGORITHMS[n].label} {g:.1f} and {s:.1f}"
            for n, (g, s) in jumps.items()),
        "the change across the drops does not stand out from those between other "
        "epochs of " + ", ".join(
            ALGORITHMS[n].label for n, both in jumps.items()
            if not max(both) >= config.jump),
    )
    out |= _shapes(config, shapes)
    return {key: (holds, number, "" if holds else why)
            for key, (holds, number, why) in out.items()}


def _shapes(
    config: Any, shapes: Mapping[str, Any]
) -> dict[str, tuple[bool, str, str]]:
    """Returns the verdicts on the noise of single parameters."""
    values = [np.array(shapes[name], float) for name in shapes]
    skew, p = np.concatenate(values, axis=1) if values else np.full((2, 1), np.nan)
    unimodal, symmetric = p >= config.level, np.abs(skew) <= config.skewness
    return {
        "unimodal": (
            bool(unimodal.mean() >= config.share),
            f"{unimodal.sum()} of {len(p)} do not refuse it; least p {p.min():.3f}, "
            f"median {np.median(p):.2f}",
            f"{(~unimodal).sum()} of {len(p)} histograms have more than one mode",
        ),
        "symmetric": (
            bool(symmetric.mean() >= config.share),
            f"{symmetric.sum()} of {len(skew)} are so; skewness {spread(skew)}, from "
            f"{skew.min():.2f} to {skew.max():.2f}",
            f"{(~symmetric).sum()} of {len(skew)} histograms are more skewed",
        ),
    }


def _coupling(one: Series) -> float:
    """Returns the correlation of the two densities; 0 if either is constant."""
    if len(one.epochs) < 2:
        return float("nan")
    logs = np.log(one.gradient), np.log(one.noise)
    if min(np.std(values) for values in logs) == 0:
        return 0.0
    return float(np.corrcoef(*logs)[0, 1])


def _jumps(config: Any, series: Sequence[Series], name: str) -> tuple[float, float]:
    """Returns by how much changes across drops exceed others, of both densities."""
    drops = [round(drop * config.epochs) for drop in config.drops]
    at: list[np.ndarray] = []
    other: list[np.ndarray] = []
    for one in (one for one in series if one.algorithm == name):
        changes = np.abs(np.diff(np.log([one.gradient, one.noise]), axis=1))
        for change, before, after in zip(
            changes.T, one.epochs, one.epochs[1:], strict=False
        ):
            # Parameters at the beginning of a drop's epoch know nothing of it yet.
            if any(before <= drop < after for drop in drops):
                at.append(change)
            elif before >= config.settling * config.epochs:
                other.append(change)
    if not at or not other:
        return float("nan"), float("nan")
    gradient, noise = np.mean(at, axis=0) / np.median(other, axis=0)
    return float(gradient), float(noise)


def _range(values: np.ndarray) -> str:
    return (
        f"{np.mean(values):.3f} in the mean, from {np.min(values):.3f} to "
        f"{np.max(values):.3f}"
    )


def _part(which: np.ndarray) -> str:
    return f"{100 * np.mean(which):.0f}%"

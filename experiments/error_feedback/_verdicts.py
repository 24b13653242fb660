"""Which claims hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.error_feedback._found import (
    EF_SIGN,
    IDENTITY,
    SCALED,
    SGD,
    TOP1,
    Found,
)

Told = tuple[str, bool, str, str]


def verdicts(config: Any, found: Found) -> Iterator[Told]:
    """Returns of each claim whether it holds, what was measured, and why not."""
    yield _algorithm_1(config, found)
    yield _algorithm_2(config, found)
    yield _lemma_8(config, found)
    yield _density(config, found)
    yield _remark_7(config, found)


def slope(config: Any, found: Found) -> float:
    """Returns the slope of top-1's mean value, on logarithmic axes."""
    values = [one.value.mean() for one in found.top1[TOP1]]
    return float(np.polyfit(np.log(np.add(config.horizons, 1)), np.log(values), 1)[0])


def _algorithm_1(config: Any, found: Found) -> Told:
    greatest = found.algorithms[EF_SIGN].gap.max()
    without = found.algorithms[SCALED].gap[:, -1]
    return (
        "algorithm_1",
        bool(greatest <= config.tolerance and without.min() > config.apart),
        f"at most {greatest:.1e} ‖x_0‖; without feedback {_spread(without)} after "
        f"{config.steps} steps",
        "the two sides differ by more than rounding explains, or without feedback "
        "hardly differ: too few steps, or too large a step size",
    )


def _algorithm_2(config: Any, found: Found) -> Told:
    compressed = {
        label: run.gap.max() for label, run in found.algorithms.items()
        if label.startswith("EF ")
    }
    same = found.algorithms[IDENTITY]
    kept = float(same.error.max())
    apart = float(np.abs(same.last - found.algorithms[SGD].last).max())
    return (
        "algorithm_2",
        max(*compressed.values(), apart) <= config.tolerance and kept == 0,
        ", ".join(f"{label} at most {gap:.1e}" for label, gap in compressed.items())
        + f"; with C(x) = x ‖e_t‖ is at most {kept:g}, and the last iterates differ "
        f"from SGD's by at most {apart:.1e}",
        "the two sides differ by more than rounding explains, or C(x) = x is not SGD",
    )


def _lemma_8(config: Any, found: Found) -> Told:
    off = {
        kind: float(np.abs(lost["sign"] + lost["density"] - 1).max())
        for kind, lost in found.lost.items()
    }
    above = max(
        float((lost["sign with zero"] + lost["density"] - 1).max())
        for lost in found.lost.values()
    )
    sparse = found.lost["one non-zero"]["sign with zero"].mean()
    return (
        "lemma_8",
        max(off.values()) <= config.exact and above <= config.exact,
        f"differs by at most {max(off.values()):.1e} where sign(0) is 1; where it is 0 "
        f"above by at most {max(above, 0.0):.1e}, and of one non-zero element "
        f"{sparse:.6f}",
        "the lost part differs from 1 - φ by more than rounding of float32 explains",
    )


def _density(config: Any, found: Found) -> Told:
    one = found.lost["one non-zero"]["density"]
    gaussian = found.lost["Gaussian"]["density"]
    off = float(np.abs(one * config.dimension - 1).max()) / config.dimension
    part = float((gaussian >= config.dense).mean())
    return (
        "lemma_8_density",
        off <= config.exact and part >= 0.99,
        f"d = {config.dimension}: {one.mean():.6f} with one non-zero element, Gaussian "
        f"{_spread(gaussian, 3)} (2/π = 0.637), log-normal "
        f"{_spread(found.lost['log-normal']['density'], 3)}",
        f"only {part:.0%} of the Gaussian vectors are as dense; short ones vary more",
    )


def _remark_7(config: Any, found: Found) -> Told:
    most = max(float(lost["top-1"].max()) for lost in found.lost.values())
    allowed = 1 - 1 / config.dimension + config.exact
    changed = max(one.changed for one in found.top1[TOP1])
    parts = [one.value.mean() / one.bound for one in found.top1[TOP1]]
    falls = slope(config, found)
    last = found.top1[TOP1][-1]
    return (
        "remark_7",
        most <= allowed and changed <= 1 and max(parts) <= 1 and falls <= config.slope,
        f"top-1 loses at most {most:.6f} of ‖v‖²; f(x̄_T) - f* "
        f"{_spread(last.value, 5)} at T = {config.horizons[-1]}, at most "
        f"{max(parts):.2f} of the bound, slope {falls:.2f}",
        f"at most {changed} coordinates changed in a step; the slope is {falls:.2f}, "
        f"the value up to {max(parts):.2f} of the bound: horizons may be too short for "
        "the mean of the iterates to forget where it started",
    )


def _spread(values: np.ndarray, digits: int = 2) -> str:
    """Returns mean ± deviation of numbers."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.{digits}f} ± {deviation:.{digits}f}"

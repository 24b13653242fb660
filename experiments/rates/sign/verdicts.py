"""Verdicts of the study of Bernstein et al. that are not bounds alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from experiments._results import Results
from experiments.rates.curves import Comparison, Curve, shown
from experiments.rates.sign.bits import Skewed


def of_lemma_d1(results: Results, compared: Comparison, off: float) -> None:
    """Bounds, and the library's estimates."""
    compared.record(results)
    faults = [compared.why] if compared.why else []
    if off > 5:
        faults.append(f"estimates are {off:.1f} standard errors off")
    results.verdict(
        "lemma_d1", not faults,
        f"{compared.number}; estimates at most {off:.1f} standard errors off",
        "; ".join(faults),
    )


def of_theorem_2b(
    config: Any, results: Results, compared: Comparison, deep: Curve, exact: float,
    skewed: Curve,
) -> None:
    """Bounds, and slopes by M with noise that the theorem allows and that it does not.

    The valley's slope is judged against `vote_slope`, not against -1/2: see the
    criterion.
    """
    compared.record(results)
    Comparison("skewed", [skewed], config.errors).record(results)
    judged = Comparison(
        compared.key,
        [c if c is not deep else dataclasses.replace(c, rate=None)
         for c in compared.curves],
        config.errors, config.slope_tolerance,
    )
    faults = [judged.why] if judged.why else []
    fall, stay = deep.slope(), skewed.slope()
    if fall is None or fall[0] > config.vote_slope:
        faults.append(f"in the valley the slope by M is {shown(fall)}")
    if stay is None or stay[0] < config.skewed_slope:
        faults.append(f"with skewed noise the slope by M is {shown(stay)}")
    number = (
        f"{judged.number}; slope by M {shown(fall)} in the valley (of the way down by "
        f"exact chances {exact:.3f}), {shown(stay)} with skewed noise, which reaches "
        f"{skewed.ratio.max():.2f} times (b)'s bound at M = "
        f"{skewed.at[skewed.ratio.argmax()]:g}"
    )
    results.verdict("theorem_2b", not faults, number, "; ".join(faults))


def of_remark_3(results: Results, found: Skewed) -> None:
    """Whether more workers are worse, and the mean is not."""
    off = np.abs(found.drawn - found.exact)
    faults = []
    if (np.diff(found.exact) >= 0).any():
        faults.append("the vote does not get worse each time")
    if (off > 5 * found.error + 1e-12).any():
        faults.append("the library's votes differ from the exact chances")
    if (found.mean[found.workers >= 30] <= 0.5).any():
        faults.append("the mean of tens of samples is wrong more often than not")
    for m, exact, drawn, mean in zip(
        found.workers, found.exact, found.drawn, found.mean, strict=True
    ):
        results.metric(
            claim="remark_3", at=m, exact=exact, drawn=drawn, sign_of_mean=mean
        )
    listed = "; ".join(
        f"M = {m}: {exact:.2g}, drawn {drawn:.2g}, sign of the mean {mean:.2f}"
        for m, exact, drawn, mean in zip(
            found.workers, found.exact, found.drawn, found.mean, strict=True
        )
    )
    results.verdict(
        "remark_3", not faults, f"chance of the right sign: {listed}", "; ".join(faults)
    )

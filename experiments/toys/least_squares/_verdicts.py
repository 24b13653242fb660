"""Verdicts and summary of the least-squares study."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments._results import Results, spread, table
from experiments.toys.least_squares import _runs
from experiments.toys.least_squares._config import Config

FOUR = ("SGD", "signSGD", "SIGNSGDM", "EF-signSGD")
SIGNS = ("signSGD", "SIGNSGDM")


def give(results: Results, config: Config, measured: dict[str, Any]) -> None:
    """Gives the verdict on every claim."""
    seen = {name: m.course for name, m in measured.items()}
    feedback, sgd = seen["EF-signSGD"], seen["SGD"]
    few = (
        f"Not at these settings: {config.steps} steps, {len(config.grid)} learning "
        "rates."
    )

    ends = {name: c.train[:, -1] for name, c in seen.items()}
    holds = all(ends[name].mean() <= config.train_level for name in FOUR)
    results.verdict(
        "train", holds,
        ", ".join(f"{name} {_number(ends[name])}" for name in FOUR),
        "It is at most 0.01 from step "
        + ", ".join(f"{_reach(seen[name].train)} ({name})" for name in FOUR)
        + " on: the least loss at the end takes signSGD a small step. The momentum of "
        f"the reference code never decays; with it the train loss ends at "
        f"{_number(ends[_runs.SUM])}." if holds else few,
    )

    share = {n: seen[n].span[:, -1] / seen[n].norm[:, -1] for n in SIGNS}
    largest = feedback.span.max(1)
    rest = feedback.span[:, -1] / largest
    holds = (
        min(s.min() for s in share.values()) > config.far
        and rest.max() <= config.near and (feedback.span[:, 0] < largest).all()
    )
    results.verdict(
        "distance", holds,
        "at the end " + ", ".join(
            f"{n} {spread(seen[n].span[:, -1])} ({s.min():.0%} of ‖x‖ or more)"
            for n, s in share.items()
        ) + f", EF-signSGD {_number(feedback.span[:, -1])} after at most "
        f"{spread(largest)}", "" if holds else few,
    )

    tests = {name: c.test[:, -1] for name, c in seen.items()}
    ratio = min((tests[name] / tests["EF-signSGD"]).min() for name in SIGNS)
    holds = ratio >= config.times and all(
        tests[name].mean() <= config.test_level for name in ("SGD", "EF-signSGD")
    )
    results.verdict(
        "test", holds,
        ", ".join(f"{name} {_number(tests[name])}" for name in FOUR)
        + f"; the least ratio to EF-signSGD is {ratio:.0f}", "" if holds else few,
    )

    level = min(tests[name].mean() for name in SIGNS)
    above = {name: int((tests[name] > 0.8).sum()) for name in SIGNS}
    results.verdict(
        "level", level > 0.8,
        ", ".join(
            f"{name} {spread(tests[name])} (higher in {above[name]} of "
            f"{config.repeats} repeats)" for name in SIGNS
        ),
        "The level is that of the draw, not of the algorithm. If most of the training "
        "labels are 1, x = sign/4 fits all training points and signSGD ends there; "
        "then its test loss is q/16 + 25 (1-q)/16, q being the share of labels 1 in "
        "the test half: 0.81 at q = 1/2, but higher than 0.8 only for q < 0.508. The "
        "paper shows one draw.",
    )

    excess = (feedback.span - feedback.error).max() / feedback.error.max()
    results.verdict(
        "theorem_4", excess <= config.tolerance,
        f"the distance is {_ratio(feedback.span, feedback.error)} of ‖e‖, median and "
        "largest", "" if excess <= config.tolerance else few,
    )
    holds = (feedback.span <= feedback.bound * (1 + config.tolerance)).all()
    results.verdict(
        "remark_10", holds,
        f"the distance is {_ratio(feedback.span, feedback.bound)} of the bound, "
        "median and largest", "" if holds else few,
    )

    beyond = (sgd.span / np.maximum(sgd.norm, 1e-300)).max()
    ends = {name: c.solution[:, -1] for name, c in seen.items()}
    holds = ends["SGD"].max() <= config.solution and beyond <= config.solution
    results.verdict(
        "lemma_9", holds,
        "from the solution of least norm, relative: "
        + ", ".join(f"{name} {_number(ends[name])}" for name in FOUR),
        "" if holds else few,
    )


def text(config: Config, measured: dict[str, Any]) -> str:
    """Returns the summary."""
    half = config.points // 2
    ranks = max(int(m.course.rank.max()) for m in measured.values())
    differ = max(
        np.abs(m.course.span - m.course.rows)[m.course.rank >= 2].max(initial=0)
        for m in measured.values()
    )
    first = max(np.abs(m.course.span - m.course.rows).max() for m in measured.values())
    rows = [
        [
            name, f"{tuned.best:.2g}", _number(seen.train[:, -1]),
            spread(seen.test[:, -1], 4), f"{seen.test.min(1).mean():.3f}",
            spread(seen.span[:, -1], 3), f"{seen.span.max(1).mean():.2f}",
            f"{seen.solution[:, -1].mean():.1g}", _reach(seen.train),
        ]
        for name, (tuned, seen) in measured.items()
    ]
    good = {
        name: m.tuned.test[m.tuned.train <= config.train_level]
        for name, m in measured.items()
    }
    least = ", ".join(
        f"{name} {values.min():.3g}" for name, values in good.items() if len(values)
    )
    return (
        f"Least squares on the data of Wilson et al.: n = {config.points}, d = "
        f"{6 * config.points}, {half} points for training, full gradients "
        f"A^T (A x - y) / {half} from x_0 = 0, {config.steps} steps; mean ± deviation "
        f"of {config.repeats} draws; losses are mean squared errors. Learning rates: "
        f"of {len(config.grid)} from {min(config.grid):g} to {max(config.grid):g} the "
        f"one with the least train loss over the last tenth of the steps, on "
        f"{config.tune_repeats} other draws. Momentum {config.beta:g}; sign(0) = 0.\n\n"
        + table(
            ["", "rate", "train loss", "test loss", "least", "distance", "largest",
             "to least norm", "train ≤ 0.01 at"], rows,
        )
        + "\n\nDistance: from the span of the gradients seen so far. All points of one "
        "label have the same residual, so that full gradients span at most two "
        f"dimensions (here: {ranks}), of the {half} of the row space of A; from the "
        "second dimension on the distances from both are the same (they differ by at "
        f"most {differ:.1g}; before, by {first:.2g}). For the same reason the draws "
        "differ by the shares of the labels only.\n\n"
        "Least test loss over the last tenth, among learning rates of the grid that "
        f"reach a train loss of {config.train_level:g}: {least}.\n\n"
        f"\"{_runs.SUM}\" is the SIGNSGDM of the reference code, whose momentum is the "
        "sum of all gradients and never decays: it overshoots and does not settle "
        "here. That code's SGD, called SGDm, has no momentum, and "
        "its distance is from the row space; the curve that one of its notebooks calls "
        "SignSGD is scaled signSGD. The density in Remark 10 counts the coordinates "
        "that are always 0, of which there are many: δ is small, and the bound wide."
    )


def _number(values: np.ndarray) -> str:
    if abs(values).max() >= 1e-3:
        return spread(values, 4)
    return f"{values.mean():.1e} ± {values.std(ddof=1) if len(values) > 1 else 0:.0e}"


def _ratio(values: np.ndarray, of: np.ndarray) -> str:
    # Where both are rounding, there is nothing to compare.
    which = of > 1e-9 * of.max()
    ratio = values[which] / of[which]
    return f"{np.median(ratio):.3g} and {ratio.max():.6g}"


def _reach(train: np.ndarray) -> str:
    """Returns the step at which the mean train loss is at most 0.01 to stay."""
    over = np.flatnonzero(train.mean(0) > 0.01)
    return "never" if over[-1] + 1 == train.shape[1] else str(over[-1] + 1)

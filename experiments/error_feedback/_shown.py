"""The figure and the summary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments import _plots
from experiments._results import count_text, spread, table
from experiments.error_feedback._found import TOP1, Found
from experiments.error_feedback._verdicts import slope


def figure(config: Any, found: Found) -> Any:
    """Draws what is forgotten, what a scaled sign loses, and how top-1 converges."""
    drawn, axes = _plots.grid(1, 3, width=5.2, height=5.2)
    identity, lemma, top1 = axes[0]
    steps = np.arange(1, config.steps + 1)
    for number, (label, run) in enumerate(found.algorithms.items()):
        # What is exactly 0 has no place on this axis.
        _plots.curve(identity, steps, np.maximum(run.gap, 1e-9), number, label)
    identity.set(
        xscale="log", yscale="log", xlabel="step t",
        ylabel="‖(x_t - e_t) - (x_0 - γ Σ g)‖, with ‖x_0‖ = 1",
        title="What is forgotten (0 is drawn at 1e-9)",
    )
    lemma.plot([0, 1], [1, 0], color="grey", linewidth=0.8, label="1 - φ")
    for number, (kind, lost) in enumerate(found.lost.items()):
        color, some = _plots.COLORS[number], slice(0, 200)
        for name, mark in (("sign", "o"), ("sign with zero", "x")):
            lemma.plot(lost["density"][some], lost[name][some], mark, markersize=4,
                       color=color, label=kind if mark == "o" else None)
    lemma.set(xlabel="density φ(v)", ylabel="‖C(v) - v‖² / ‖v‖²",
              title="Lemma 8 (crosses: sign(0) = 0)")
    for number, (label, several) in enumerate(found.top1.items()):
        values = np.stack([one.value for one in several], axis=1)
        _plots.curve(top1, config.horizons, values, number, label)
        top1.plot(config.horizons, [one.bound for one in several], linestyle=":",
                  color=_plots.COLORS[number], label=f"bound of {label}")
    top1.set(xscale="log", yscale="log", xlabel="T", ylabel="f(x̄_T) - f*",
             title="Remark 7: Theorem III with top-1")
    for axis in axes[0]:
        axis.legend(frameon=False, fontsize="small")
    return drawn


def summary(config: Any, found: Found) -> str:
    """Returns what was run, and the tables."""
    d, seeds = math.prod(config.shape), config.seeds
    algorithms = table(
        ("algorithm", "greatest gap", "gap in the end"),
        [
            (label, f"{run.gap.max():.1e}", f"{run.gap[:, -1].mean():.1e}")
            for label, run in found.algorithms.items()
        ],
    )
    vectors = table(
        ("vectors", "φ", "lost by scaled sign", "where sign(0) = 0", "by top-1"),
        [
            (kind, *(spread(lost[name], 4)
                     for name in ("density", "sign", "sign with zero", "top-1")))
            for kind, lost in found.lost.items()
        ],
    )
    reached = table(
        ("T", *(f"{label}{of}" for label in found.top1 for of in ("", ", bound"))),
        [
            (str(horizon), *(text for several in found.top1.values() for text in (
                spread(several[number].value, 5), f"{several[number].bound:.4f}")))
            for number, horizon in enumerate(config.horizons)
        ],
    )
    return (
        f"f(x) = mean |<a_i, x>| of {config.rows} Gaussian a_i, d = {d}, batches of "
        f"one, {count_text(seeds, 'seed')}.\n\n"
        "Algorithms 1 and 2: the gap is ‖(x_t - e_t) - (x_0 - γ Σ g)‖ with ‖x_0‖ = 1 "
        f"and γ = {config.learning_rate:g}, over {config.steps} steps:\n\n{algorithms}"
        f"\n\nLemma 8, of {config.vectors} vectors of each kind with "
        f"{config.dimension} elements, parts of ‖v‖²:\n\n{vectors}\n\n"
        "Remark 7: f(x̄_T) - f* at the step sizes of Remark 6, and Theorem III's bound "
        f"with the constants of its proof:\n\n{reached}\n\nThe slope of {TOP1} in "
        f"T + 1 is {slope(config, found):.2f} on logarithmic axes. The figure shows "
        "means, and shades from the least to the greatest seed."
    )

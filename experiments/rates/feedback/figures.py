"""Figures of the study of Karimireddy et al.'s rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from experiments import _plots
from experiments._results import Results
from experiments.rates.curves import (
    Comparison,
    Curve,
    draw,
    guide,
    overview,
    renamed,
    ticks,
)
from experiments.rates.feedback.algorithms import SGD
from experiments.rates.feedback.error import Lemma3
from experiments.rates.feedback.smooth import Smooth

POINTS = "points, T + 1"


def draw_all(
    config: Any, results: Results, smooth: Smooth, compared: dict[str, Comparison],
    control: Curve, lemma: Lemma3,
) -> None:
    """Writes all figures."""
    where = {claim.key: claim.where for claim in config.CLAIMS}
    results.figure(overview(list(compared.values()), where))
    results.figure(_smooth(config, smooth, compared), "smooth")
    results.figure(_delta(config, smooth), "delta")
    results.figure(_kinked(compared, control), "kinked")
    results.figure(_error(lemma), "error")


def _smooth(config: Any, smooth: Smooth, compared: dict[str, Comparison]) -> Any:
    """Theorem II at the largest γ, Remark 4, Remark 5."""
    figure, axes = _plots.grid(1, 3, 4.9, 5.2, sharey=True)
    rate = max(config.rates)
    least = config.kept[-1]
    shown = (SGD, f"top-{least}", f"random-{least}", "scaled sign")
    panels = (
        (f"Theorem II, γ = {rate:g}",
         renamed(compared["theorem_ii"].curves, f", γ = {rate:g}")),
        ("Remark 4, γ = 1/√(T+1)", [
            c for c in compared["remark_4"].curves if c.label in shown
        ]),
        ("Remark 5, γ = 1/√(T+1)", [
            c for c in compared["remark_5"].curves
            if f"κ = {config.dimension / config.kept[0]:g}," in c.label
            or f"κ = {config.dimension / least:g}," in c.label
        ]),
    )
    for axis, (title, curves) in zip(axes[0], panels, strict=True):
        draw(axis, curves)
        if curves[0].rate is not None:
            guide(axis, curves[0], "1/√(T+1)")
        axis.set(xlabel=POINTS, title=title)
        axis.legend(fontsize=7.5)
    axes[0, 0].set(ylabel="mean over t of ‖∇f(x_t)‖²")
    return figure


def _delta(config: Any, smooth: Smooth) -> Any:
    """The distance to SGD, and the ratio."""
    figure, axes = _plots.grid(1, 2, 6.4, 4.8)
    gaps, at = smooth.gaps(), np.asarray(config.horizons, np.float64)
    sgd = smooth.falling[SGD].mean(0)
    runs = smooth.falling | {
        f"random-{k}, no feedback": v for k, v in smooth.bare.items()
    }
    for number, (name, curve) in enumerate(gaps.items()):
        color = _plots.COLORS[number % len(_plots.COLORS)]
        dash = "--" if "no feedback" in name else "-"
        axes[0, 0].errorbar(
            at, curve.mean, curve.deviation / np.sqrt(len(curve.runs)), color=color,
            linestyle=dash, label=name, linewidth=1.5,
        )
        axes[0, 1].plot(
            at, runs[name].mean(0) / sgd, color=color, linestyle=dash, linewidth=1.5
        )
    first = next(iter(gaps.values())).mean[0]
    axes[0, 0].plot(at, 0.5 * first * at[0] / at, ":", color="grey", label="1/T")
    axes[0, 0].plot(
        at, 60 * first * (at[0] / at) ** 0.5, "-.", color="grey", label="1/√T"
    )
    axes[0, 0].set(
        xscale="log", yscale="log", xlabel=POINTS,
        ylabel="|mean ‖∇f‖² minus SGD's|, standard errors",
    )
    axes[0, 0].set_title("Remark 4: distance to SGD")
    axes[0, 1].set(
        xscale="log", xlabel=POINTS, ylabel="mean ‖∇f‖² ÷ SGD's",
        title="the leading term: ratio to SGD",
    )
    axes[0, 1].axhline(1, color="grey", linewidth=0.8)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _kinked(compared: dict[str, Comparison], control: Curve) -> Any:
    """Theorem III and Remark 6."""
    figure, axes = _plots.grid(1, 2, 5.6, 5.2, sharey=True)
    fixed, best = compared["theorem_iii"].curves, compared["remark_6"].curves
    draw(axes[0, 0], fixed)
    axes[0, 0].plot(
        control.at, control.mean, color="grey", linestyle="--", label=control.label
    )
    draw(axes[0, 1], best)
    guide(axes[0, 1], best[0], "1/√(T+1)")
    axes[0, 0].set(
        xlabel=POINTS, ylabel="f(mean of x₀ ... x_T) - f*", title="Theorem III"
    )
    axes[0, 1].set(xlabel=POINTS, title="Remark 6: the best γ for each T")
    for axis in axes.flat:
        axis.legend(fontsize=7.5)
    return figure


def _error(lemma: Lemma3) -> Any:
    """Lemma 3 by 1/δ, a panel for each compressor, and its deterministic form."""
    names = ("top-k", "random-k", "scaled sign")
    figure, axes = _plots.grid(1, 4, 3.9, 4.6)
    for axis, name in zip(axes[0], names, strict=False):
        # Where nothing is left out there is nothing to draw.
        curves = [
            replace(c, label=c.label.split(", ")[1]) for c in lemma.mean
            if c.label.startswith(name) and c.mean.max() > 1e-6
        ]
        draw(axis, curves)
        axis.set(
            xlabel="1/δ", title=f"{name}: greatest E‖e_t‖²/(γσ)²", ylim=(1e-2, None)
        )
        ticks(axis, curves[0].at)
        axis.legend(fontsize=7.5)
    draw(axes[0, 3], [
        replace(c, label=c.label.split(", ")[1]) for c in lemma.surely
        if c.label.startswith("top-k") and c.mean.max() > 1e-6
    ])
    axes[0, 3].set(xlabel="1/δ", title="top-k: greatest ‖e_t‖/(γG), surely")
    ticks(axes[0, 3], lemma.surely[0].at)
    axes[0, 3].legend(fontsize=7.5)
    return figure

"""Figures of the study of Bernstein et al.'s rates."""

from __future__ import annotations

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
    ticks,
)
from experiments.rates.sign.bits import Skewed


def draw_all(
    config: Any, results: Results, compared: dict[str, Comparison], b: list[Curve],
    deep: Curve, skewed: Curve, chances: Skewed,
) -> None:
    """Writes all figures."""
    where = {claim.key: claim.where for claim in config.CLAIMS}
    results.figure(overview(list(compared.values()), where))
    results.figure(_descent(compared), "descent")
    results.figure(_votes(b, deep, skewed), "votes")
    results.figure(_bits(config, compared, chances), "bits")
    results.figure(_signum(compared), "signum")


def _descent(compared: dict[str, Comparison]) -> Any:
    """Theorems 1 and C.1."""
    figure, axes = _plots.grid(1, 2, 5.6, 4.8)
    for axis, key, title, label, text in (
        (axes[0, 0], "theorem_1", "Theorem 1: signSGD", "mean over k of ‖g_k‖₁",
         "1/√K"),
        (axes[0, 1], "theorem_c1", "Theorem C.1: SGD", "mean over k of ‖g_k‖²", "1/K"),
    ):
        curves = compared[key].curves
        draw(axis, curves)
        guide(axis, curves[0], text)
        axis.set(xlabel="steps, K", ylabel=label, title=title)
        axis.legend(fontsize=7.5)
    return figure


def _votes(b: list[Curve], deep: Curve, skewed: Curve) -> Any:
    """Theorem 2 by K, and by M where noise decides and where it is skewed."""
    figure, axes = _plots.grid(1, 3, 4.8, 4.8)
    chosen = [c for c in b if not c.label.endswith("= 2")]
    draw(axes[0, 0], chosen, "its bound (b), in its colour")
    guide(axes[0, 0], chosen[-1], "1/√K")
    axes[0, 0].set(
        xlabel="steps, K", ylabel="mean over k of ‖g_k‖₁",
        title="Theorem 2: quadratic",
    )
    for axis, curve, title in (
        (axes[0, 1], deep, "Gaussian noise in the valley"),
        (axes[0, 2], skewed, "skewed noise on the quadratic"),
    ):
        draw(axis, [curve], "bound (b), for unimodal symmetric noise")
        a = curve.bound[0] if curve.at[0] == 1 else None
        if a is not None:
            axis.axhline(a, color=_plots.COLORS[4], label="bound (a), for any noise")
        guide(axis, curve, "1/√M")
        axis.set(xlabel="workers, M", title=title)
        ticks(axis, curve.at)
    for axis in axes.flat:
        axis.legend(fontsize=7.5)
    return figure


def _bits(config: Any, compared: dict[str, Comparison], chances: Skewed) -> Any:
    """One sign, votes on it, and Remark 3."""
    figure, axes = _plots.grid(1, 3, 4.8, 4.8)
    d1 = compared["lemma_d1"].curves
    for number, curve in enumerate(d1):
        axes[0, 0].plot(
            curve.at, curve.mean, color=_plots.COLORS[number],
            linestyle=_plots.DASHES[number], label=curve.label,
        )
    axes[0, 0].plot(d1[0].at, d1[0].bound, "v", color="grey", markersize=4,
                    label="Lemma D.1")
    cantelli = compared["section_3"].curves[0]
    axes[0, 0].plot(
        cantelli.at, np.minimum(cantelli.bound, 1), ":", color="grey",
        label="Cantelli, any law",
    )
    axes[0, 0].set(
        xscale="log", yscale="log", ylim=(1e-3, 1), xlabel="S = |g|/σ",
        ylabel="P[wrong sign]", title="one sign",
    )
    draw(axes[0, 1], compared["binomial_vote"].curves, "1/√M")
    worst = compared["theorem_2a_votes"].curves[0]
    axes[0, 1].plot(
        worst.at, worst.mean, color=_plots.COLORS[4], label=f"{worst.label}, S ≥ 1"
    )
    axes[0, 1].axhline(1, color=_plots.COLORS[4], linestyle=":", label="1, for (a)")
    axes[0, 1].set(
        xlabel="workers, M", ylabel="largest S P[Z ≤ M/2] over S", title="votes"
    )
    for values, label, dash in (
        (chances.exact, "vote, exact", "-"), (chances.mean, "sign of the mean", "--")
    ):
        axes[0, 2].plot(chances.workers, values, dash, label=label,
                        color=_plots.COLORS[1])
    axes[0, 2].errorbar(
        chances.workers, chances.drawn, chances.error, fmt="o",
        color=_plots.COLORS[4], label=f"vote, {config.samples} draws",
    )
    axes[0, 2].axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes[0, 2].set(
        xlabel="workers, or samples in the mean", ylabel="P[right sign]",
        title="Remark 3: P(50) = 0.1, P(-1) = 0.9",
    )
    for axis in axes.flat:
        axis.legend(fontsize=7.5)
    return figure


def _signum(compared: dict[str, Comparison]) -> Any:
    """Theorem 3 and Lemma F.2."""
    figure, axes = _plots.grid(1, 2, 5.6, 4.8)
    curves = compared["theorem_3"].curves
    draw(axes[0, 0], curves, "Lemma E.1 with ξ of F.2")
    axes[0, 0].set_ylim(top=6 * max(c.bound.max() for c in curves))
    guide(axes[0, 0], curves[0], "(1 + 2 log K)/√K")
    draw(axes[0, 1], compared["lemma_f2"].curves, "Lemma F.2")
    axes[0, 0].set(
        xlabel="steps, K", ylabel="mean ‖g_k‖₁ over C ≤ k < K", title="Theorem 3"
    )
    axes[0, 1].set(
        xlabel="step, k", ylabel="mean ‖m̃_k - g_k‖₁", title="Lemma F.2"
    )
    for axis in axes.flat:
        axis.legend(fontsize=7.5)
    return figure

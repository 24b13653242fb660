"""Figures of the study of Safaryan and Richtárik's rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import _plots
from experiments._results import Results
from experiments.rates import bounds
from experiments.rates.curves import (
    Comparison,
    Curve,
    draw,
    guide,
    overview,
    renamed,
)
from experiments.rates.stochastic.chances import Batches
from experiments.rates.stochastic.scaled import Against, Moments


def draw_all(
    config: Any, results: Results, compared: dict[str, Comparison], batches: Batches,
    drawn: Moments, against: Against, schedules: tuple[Curve, Curve],
) -> None:
    """Writes all figures."""
    where = {claim.key: claim.where for claim in config.CLAIMS}
    results.figure(overview(list(compared.values()), where))
    results.figure(_descent(compared, schedules), "descent")
    results.figure(_votes(config, compared), "votes")
    results.figure(_chances(compared, batches), "chances")
    results.figure(_appendices(compared, drawn, against), "appendices")


def _descent(
    compared: dict[str, Comparison], schedules: tuple[Curve, Curve]
) -> Any:
    """Theorems 1 and 2, and what a schedule of accepted steps does."""
    figure, axes = _plots.grid(2, 2, 5.6, 4.4)
    for axis, key, kind, title, text in (
        (axes[0, 0], "theorem_1", "decreasing", "Theorem 1, γ_k = γ₀/√(k+1)",
         "log K/√K"),
        (axes[0, 1], "theorem_2", "decreasing", "Theorem 2, γ_k = γ₀/√(k+1)", "1/√K"),
        (axes[1, 0], "theorem_1", "constant", "Theorem 1, constant γ", ""),
    ):
        curves = renamed(compared[key].curves, f", {kind}")
        draw(axis, curves)
        if text:
            guide(axis, curves[0], text)
        axis.set(xlabel="steps, K", ylabel="mean ‖g_k‖_ρ", title=title)
    draw(axes[1, 1], list(schedules), "Theorem 2's bound")
    axes[1, 1].set(
        xlabel="steps, K", ylabel="mean |g_k|",
        title="½x² from 0.4γ₀, exact gradients, Option 2",
    )
    for axis in axes.flat:
        axis.legend(fontsize=7.5)
    return figure


def _votes(config: Any, compared: dict[str, Comparison]) -> Any:
    """Theorem 3, and the weights of Lemma 8."""
    figure, axes = _plots.grid(1, 2, 5.6, 4.8)
    curves = renamed(compared["theorem_3"].curves, ", decreasing")
    draw(axes[0, 0], curves)
    guide(axes[0, 0], curves[0], "log K/√K")
    axes[0, 0].set(
        xlabel="steps, K", ylabel="weighted mean ‖g_k‖_{ρ_M}",
        title="Theorem 3, γ_k = γ₀/√(k+1)",
    )
    workers = np.arange(1, 41)
    for number, rho in enumerate((0.55, 0.65, 0.8)):
        color = _plots.COLORS[number]
        axes[0, 1].plot(
            workers, bounds.vote_weight(workers, rho), "o", markersize=3, color=color,
            label=f"ρ = {rho:g}: 2I(ρ; l, l) - 1",
        )
        half = (workers + 1) // 2
        axes[0, 1].plot(
            workers, 1 - np.exp(-((2 * rho - 1) ** 2) * half), color=color,
            linewidth=1, label="1 - exp(-(2ρ-1)²l)",
        )
    axes[0, 1].set(xlabel="workers, M", ylabel="weight", title="Lemma 8 and B.8")
    for axis in axes.flat:
        axis.legend(fontsize=7.5)
    return figure


def _chances(compared: dict[str, Comparison], batches: Batches) -> Any:
    """Lemmas 1, 5, 6 and 7."""
    figure, axes = _plots.grid(1, 3, 4.8, 4.8)
    plain = compared["lemma_1"].curves
    for number, curve in enumerate(plain):
        axes[0, 0].plot(
            curve.at, curve.mean, color=_plots.COLORS[number],
            linestyle=_plots.DASHES[number], label=curve.label,
        )
    for key, mark, label in (
        ("lemma_1", "v", "Lemma 1"), ("lemma_1_improved", "^", "improved (B.1)")
    ):
        curve = compared[key].curves[0]
        axes[0, 0].plot(curve.at, curve.bound, mark, color="grey", markersize=4,
                        label=label)
    axes[0, 0].set(
        xscale="log", yscale="log", ylim=(1e-3, 1), xlabel="|g|/σ", ylabel="1 - ρ",
        title="Lemma 1",
    )
    both = compared["lemma_5_6"].curves
    half = len(both) // 2
    for number, (five, six) in enumerate(zip(both[:half], both[half:], strict=True)):
        color = _plots.COLORS[number]
        axes[0, 1].plot(five.at, five.mean, color=color, label=five.label)
        axes[0, 1].plot(five.at, five.bound, "v", color=color, markersize=4)
        axes[0, 1].plot(six.at, six.bound, "^", color=color, markersize=4)
    axes[0, 1].plot([], [], "v", color="grey", label="Lemma 5")
    axes[0, 1].plot([], [], "^", color="grey", label="Lemma 6")
    axes[0, 1].set(
        xscale="log", yscale="log", ylim=(1e-4, 2), xlabel="mini-batch, τ",
        ylabel="P[wrong sign]", title="Lemmas 5 and 6",
    )
    for number, p in enumerate(np.unique(batches.chance)):
        here = batches.chance == p
        axes[0, 2].plot(
            batches.enough[here], batches.needed[here], "o-", markersize=4,
            color=_plots.COLORS[number], label=f"P(1) = {p:g}",
        )
    ends = np.array([batches.enough.min(), batches.enough.max()])
    axes[0, 2].plot(ends, ends, color="grey", linewidth=1, label="the lemma")
    axes[0, 2].set(
        xscale="log", yscale="log", xlabel="τ by the lemma", ylabel="τ needed",
        title="Lemma 7: two-point laws",
    )
    for axis in axes.flat:
        axis.legend(fontsize=7.5)
    return figure


def _appendices(
    compared: dict[str, Comparison], drawn: Moments, against: Against
) -> Any:
    """Theorem 6, appendix D, the stochastic sign and the comparison with feedback."""
    figure, axes = _plots.grid(2, 2, 5.6, 4.4)
    draw(axes[0, 0], compared["theorem_6"].curves)
    axes[0, 0].set(
        xlabel="steps, K", ylabel="mean ‖∇f‖²", title="Theorem 6: SGD on the ripples"
    )
    curves = compared["appendix_d"].curves
    draw(axes[0, 1], curves)
    guide(axes[0, 1], curves[0], "1/√K")
    axes[0, 1].set(
        xlabel="steps, K", ylabel="mean over k",
        title="appendix D, γ = √(2(f₀-f*)/(dL̄K))",
    )
    axes[1, 0].errorbar(
        ["dense", "Gaussian", "one\ncoordinate", "half zero"], drawn.variance,
        drawn.error, fmt="o", color=_plots.COLORS[1], capsize=4,
    )
    axes[1, 0].axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axes[1, 0].set(
        ylabel="mean ‖C(x) - x‖² ÷ (d-1)‖x‖², standard error",
        title="appendix E: the stochastic sign",
    )
    axis, unit = axes[1, 1], against.thresholds[0]
    for number, c in enumerate((against.stochastic, against.feedback)):
        scaled = Curve(c.label, c.at / unit, c.runs, c.bound)
        _plots.curve(axis, scaled.at, scaled.runs, number, c.label)
        axis.plot(scaled.at, c.bound, "v-", color=_plots.COLORS[number], markersize=3.5,
                  linewidth=0.8, label="its bound" + ", δ = 1/d" * number)
    axis.plot(
        against.stochastic.at / unit, against.as_measured, "^--", markersize=3.5,
        color=_plots.COLORS[1], linewidth=0.8, label="its bound, δ = least φ(p_t)",
    )
    axis.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axis.set(
        xscale="log", yscale="log", xlabel="γ · 8dL (dotted: the paper's threshold)",
        ylabel="mean ‖∇f‖²", title="appendix E: against error feedback",
    )
    for axis in axes.flat[[0, 1, 3]]:
        axis.legend(fontsize=7.5)
    return figure

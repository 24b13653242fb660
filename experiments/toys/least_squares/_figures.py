"""The figure of the least-squares study."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import _plots
from experiments.toys.least_squares._config import Config

FLOOR = 1e-10  # what is smaller is drawn there


def figure(config: Config, measured: dict[str, Any]) -> Any:
    """Draws Figure 3, and below it the bounds, the solution and the grid."""
    fig, axes = _plots.grid(2, 3, width=4.6, height=3.7)
    steps = np.arange(config.steps + 1)
    for number, (name, (tuned, seen)) in enumerate(measured.items()):
        for axis, values in (
            (axes[0, 0], seen.span), (axes[0, 1], seen.train), (axes[0, 2], seen.test),
            (axes[1, 1], np.maximum(seen.solution, FLOOR)),
        ):
            _plots.curve(axis, steps, values, number, f"{name}, γ = {tuned.best:.2g}")
        color = _plots.COLORS[number % len(_plots.COLORS)]
        for values, style, label in (
            (tuned.train, "-", name), (tuned.test, ":", "_"),
        ):
            axes[1, 2].plot(
                config.grid, np.clip(np.nan_to_num(values, nan=np.inf), FLOOR, 10),
                color=color, linestyle=style, label=label, linewidth=1.3,
            )
    feedback = measured["EF-signSGD"].course
    for number, (values, label) in enumerate((
        (feedback.span, "distance from the span of the gradients"),
        (feedback.rows, "distance from the row space of A"),
        (feedback.error, "‖e‖ (Theorem IV)"),
        (feedback.bound, "2 γ √(1-δ)/δ max ‖g‖ (Remark 10)"),
    )):
        _plots.curve(
            axes[1, 0], steps[1:], np.maximum(values[:, 1:], FLOOR), number, label
        )
    for axis, label in (
        (axes[0, 0], "distance from the span of the gradients"),
        (axes[0, 1], "train loss (mean squared error)"),
        (axes[0, 2], "test loss (mean squared error)"),
    ):
        axis.set(xlabel="step", ylabel=label, xscale="symlog", xlim=(0, config.steps))
    axes[0, 1].set(ylim=(0, 1.5))
    axes[0, 2].set(ylim=(0, 1.5))
    axes[0, 2].axhline(0.8, color="grey", linewidth=0.8, linestyle=":")
    axes[0, 2].annotate("0.8", (1, 0.81), fontsize=7, color="grey")
    axes[1, 0].set(
        xlabel="step", ylabel="EF-signSGD: distances and bounds", yscale="log",
        xscale="log",
    )
    axes[1, 1].set(
        xlabel="step", ylabel="distance from the least-norm solution (relative)",
        yscale="log",
    )
    axes[1, 2].set(
        xlabel="learning rate", ylabel="last tenth: train (solid), test loss (dotted)",
        xscale="log", yscale="log",
    )
    for axis in (axes[0, 0], axes[1, 0], axes[1, 2]):
        axis.legend(fontsize=7, framealpha=0.7)
    return fig

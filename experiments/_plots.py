"""Figures of the studies, without a display and without global state."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

# Told apart without colour vision too (Okabe and Ito), and by their dashes.
COLORS = ("#000000", "#0072B2", "#E69F00", "#CC79A7", "#D55E00", "#009E73", "#56B4E9")
DASHES = ("-", "-", "--", "-.", "-", (0, (4, 1, 1, 1, 1, 1)), ":")


def panels(count: int, width: float = 5.6, height: float = 4.8) -> tuple[Figure, Any]:
    """Returns a figure with panels side by side, which share their vertical axis."""
    figure, axes = grid(1, count, width, height, sharey=True)
    return figure, axes[0]


def grid(
    rows: int, columns: int, width: float = 3.6, height: float = 2.9, **shared: Any
) -> tuple[Figure, Any]:
    """Returns a figure with rows and columns of panels, and the array of them.

    Args:
      rows: how many.
      columns: how many.
      width: of one panel, in inches.
      height: of one panel, in inches.
      **shared: sharex and sharey, as of `matplotlib.figure.Figure.subplots`.
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat:
        axis.grid(True, which="major", alpha=0.3, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curve(axis: Any, x: Any, runs: Any, number: int, label: str) -> None:
    """Draws the mean of runs [seeds, points], and shades from least to greatest.

    Unlike mean - deviation, the least of positive values suits a logarithmic axis.
    """
    runs = np.asarray(runs)
    color, dash = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
    axis.plot(
        x, runs.mean(axis=0), color=color, linestyle=dash, linewidth=1.8, label=label
    )
    if len(runs) > 1:
        axis.fill_between(
            x, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.15, linewidth=0
        )

"""Figures arranged as in the paper, a column for each budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import _plots
from experiments.mnist._config import METHODS, Cell, Config

if TYPE_CHECKING:
    from experiments.mnist._study import Found

# Output biases of a digit of each part: what the histograms are of.
SHOWN = (0, 5)


def split_batches(config: Config, found: Found) -> Any:
    """Figure 3, left: accuracies on split batches against megabytes."""
    cells = [config.figure_3(method) for method in METHODS]
    return _curves(config, found, cells, {c: c.method for c in cells}, "Split batches")


def batch_sizes(config: Config, found: Found) -> Any:
    """Figure 5: accuracies on standard batches of several sizes against megabytes."""
    labels = {
        Cell("standard", config.widths[0], size, method): f"{method}, batches of {size}"
        for method in METHODS for size in config.batch_sizes
    }
    return _curves(config, found, list(labels), labels, "Standard batches")


def _curves(
    config: Config, found: Found, cells: list[Cell], labels: dict[Cell, str],
    title: str,
) -> Any:
    budgets = config.budgets_of(cells[0])
    figure, axes = _plots.grid(2, len(budgets), width=3.8, sharey="row", sharex="col")
    names = {"train_accuracy": "training accuracy, %",
             "test_accuracy": "test accuracy, %"}
    for column, budget in enumerate(budgets):
        for row, (name, label) in enumerate(names.items()):
            axis = axes[row, column]
            for number, cell in enumerate(cells):
                runs = found.of(cell, budget)
                values = [getattr(one, name) for one in runs]
                _plots.curve(axis, runs[0].megabytes, values, number + 1, labels[cell])
            axis.set_ylim(bottom=_lowest(found, cells, name), top=100.3)
            axis.set_xlim(0, budget)
            if column == 0:
                axis.set_ylabel(label)
        axes[0, column].set_title(f"tuned for {budget:g} MB")
        axes[1, column].set_xlabel("gradients sent, MB")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        f"{title}, {config.widths[0]} hidden units "
        f"(line: mean of {len(config.seeds)}, shaded: least to greatest)"
    )
    return figure


def _lowest(found: Found, cells: list[Cell], name: str) -> float:
    """Returns where the axis begins: below what all methods reach in the end."""
    ends = [getattr(one, name)[-1] for one in found.runs if one.cell in cells]
    return max(0.0, 10 * np.floor(min(ends) / 10) - 10)


def gradients(config: Config, found: Found) -> Any:
    """Figure 3, right: histograms of stochastic gradients of two weights."""
    figure, axes = _plots.grid(len(SHOWN), len(config.epochs), width=4.2)
    seed = config.seeds[0]
    for row, digit in enumerate(SHOWN):
        for column, epoch in enumerate(config.epochs):
            axis = axes[row, column]
            for one in found.sampled:
                if (one.seed, one.epoch) != (seed, epoch):
                    continue
                index = one.gradients.shape[1] - 10 + digit
                values = one.gradients[:, index]
                if one.batches == "standard":
                    axis.hist(values, 40, density=True, histtype="step", color="black",
                              label="standard batches")
                    continue
                axis.hist(values, 40, density=True, color=_plots.COLORS[1], alpha=0.6,
                          label="split batches")
                axis.axvline(values.mean(), color="red", linestyle="--", linewidth=1.2,
                             label="mean, split batches")
                shape = one.shape
                axis.set_title(
                    f"before epoch {epoch}: bimodality {shape.bimodality[index]:.2f}, "
                    f"skewness {shape.skewness[index]:.1f}, "
                    f"ρ {shape.success[index]:.2f}",
                    fontsize="small",
                )
            axis.set_yscale("symlog", linthresh=1)
            axis.set_xlabel("stochastic gradient")
        axes[row, 0].set_ylabel(f"density, output bias of digit {digit}")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure

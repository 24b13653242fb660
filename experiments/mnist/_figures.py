"""Figures arranged as in the paper, a column for each budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import _plots
from experiments.mnist._config import METHODS, SHOWN, Cell, Config

if TYPE_CHECKING:
    from experiments.mnist._sampling import Sampled
    from experiments.mnist._study import Found


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
    figure, axes = _plots.grid(2, len(budgets), width=3.8, sharex="col")
    names = {"train_accuracy": "training accuracy, %",
             "test_accuracy": "test accuracy, %"}
    for column, budget in enumerate(budgets):
        for row, (name, label) in enumerate(names.items()):
            axis, drawn = axes[row, column], []
            for number, cell in enumerate(cells):
                runs = found.of(cell, budget)
                values = [getattr(one, name) for one in runs]
                drawn.extend(values)
                _plots.curve(axis, runs[0].megabytes, values, number + 1, labels[cell])
            ends = [curve[-1] for curve in drawn]
            # From a little below where the worst ends: beginnings are all alike.
            axis.set_ylim(max(0.0, 5 * np.floor(min(ends) / 5) - 10), 100.3)
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


def gradients(config: Config, found: Found) -> Any:
    """Figure 3, right: histograms of stochastic gradients of two weights."""
    figure, axes = _plots.grid(len(SHOWN), len(config.epochs), width=4.2, height=3.2)
    seed = config.seeds[0]
    sampled = {(one.epoch, one.batches): one for one in found.sampled
               if one.seed == seed}
    for row, digit in enumerate(SHOWN):
        for column, epoch in enumerate(config.epochs):
            _histogram(axes[row, column], sampled[epoch, "split"],
                       sampled[epoch, "standard"], digit)
        axes[row, 0].set_ylabel(f"density, output bias of digit {digit}")
    for axis in axes[-1]:
        axis.set_xlabel("stochastic gradient")
    for axis in axes.flat:
        axis.locator_params(axis="x", nbins=5)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        "Stochastic gradients of two weights on split batches, signSGD, "
        f"{config.long_budget:g} MB, seed {seed}"
    )
    return figure


def _histogram(axis: Any, split: Sampled, standard: Sampled, digit: int) -> None:
    """Draws the gradients of an output bias, split batches by part of the digits."""
    index = split.gradients.shape[1] - 10 + digit
    ours, theirs = split.gradients[:, index], standard.gradients[:, index]
    # All but the farthest hundredth, which would hide what the rest looks like.
    bins = np.linspace(np.quantile(ours, 0.005), np.quantile(ours, 0.995), 41)
    each = 1 / (len(ours) * (bins[1] - bins[0]))
    parts = [ours[split.part == number] for number in (0, 1)]
    axis.hist(
        parts, bins, weights=[np.full(len(values), each) for values in parts],
        stacked=True, color=[_plots.COLORS[1], _plots.COLORS[2]],
        label=["batches of digits 0 to 4", "batches of digits 5 to 9"],
    )
    axis.hist(theirs, bins, weights=np.full(len(theirs), each), histtype="step",
              color="black", linewidth=1, label="standard batches")
    axis.axvline(ours.mean(), color="red", linestyle="--", linewidth=1.2,
                 label="mean, split batches")
    shape = split.shape
    axis.set_title(
        f"before epoch {split.epoch}: distance {shape.separation[index]:.1f}, "
        f"bimodality {shape.bimodality[index]:.2f},\nskewness "
        f"{shape.skewness[index]:.1f}, ρ {shape.success[index]:.2f}", fontsize="small",
    )

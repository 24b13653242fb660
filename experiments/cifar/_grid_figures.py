"""Figures of the grid of learning rates and weight decays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import _plots
from experiments._results import count_text
from experiments.cifar._algorithms import ALGORITHMS


def heat_maps(config: Any, maps: Mapping[str, np.ndarray]) -> Any:
    """Draws validation accuracies, a panel for each algorithm; winners are framed."""
    rates, decays = config.learning_rates, config.weight_decays
    figure, axes = _plots.grid(
        1, len(maps), 1.6 + 0.6 * len(decays), 1.4 + 0.45 * len(rates), sharey=True
    )
    low = min(values.min() for values in maps.values())
    high = max(values.max() for values in maps.values())
    for axis, (name, values) in zip(axes[0], maps.items(), strict=True):
        axis.grid(False)
        image = axis.imshow(
            values, origin="lower", aspect="auto", cmap="cividis", vmin=low, vmax=high
        )
        for (row, column), value in np.ndenumerate(values):
            dark = value < (low + high) / 2
            axis.text(column, row, f"{value:.0f}", ha="center", va="center",
                      fontsize=8, color="white" if dark else "black")
        row, column = np.unravel_index(np.argmax(values), values.shape)
        axis.plot(column, row, marker="s", markersize=22, fillstyle="none",
                  color=_plots.COLORS[4], markeredgewidth=1.6)
        axis.set(
            title=ALGORITHMS[name].label, xlabel="weight decay",
            xticks=range(len(decays)), xticklabels=[f"{d:g}" for d in decays],
            yticks=range(len(rates)), yticklabels=[f"{r:g}" for r in rates],
        )
    axes[0, 0].set_ylabel("learning rate")
    figure.colorbar(image, ax=axes, label="validation accuracy, %")
    return figure


def winners(config: Any, tests: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Draws the winners' test accuracy and training loss against epochs."""
    figure, axes = _plots.grid(1, 2, 4.6, 3.6)
    epochs = 1 + np.arange(config.test_epochs)
    for number, (name, lines) in enumerate(tests.items()):
        for axis, column in zip(axes[0], ("test_accuracy", "train_loss"), strict=True):
            values = np.array([line[column] for line in lines], float)
            there = np.isfinite(values).all(axis=0)
            if there.any():
                _plots.curve(axis, epochs[there], values[:, there], number,
                             ALGORITHMS[name].label)
    for axis, label in zip(axes[0], ("test accuracy, %", "training loss"), strict=True):
        axis.set(xlabel="epoch", ylabel=label)
        for drop in config.drops:
            axis.axvline(round(drop * config.test_epochs), color="grey", linewidth=0.8,
                         linestyle=":")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(tests), frameon=False,
        title="dotted: the learning rate falls; shaded: from least to greatest of "
        f"{count_text(len(config.seeds), 'seed')}", title_fontsize="small",
    )
    return figure

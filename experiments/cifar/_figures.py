"""Figures of the trainings on CIFAR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import _plots
from experiments.cifar._algorithms import Entry
from experiments.cifar._runs import Ended, groups


def curves(ended: Sequence[Ended], entries: Mapping[str, Entry]) -> Any:
    """Draws losses and accuracies against epochs, a column for each batch size."""
    rows = (
        ("train_loss", "training loss"), ("test_loss", "test loss"),
        ("train_accuracy", "training accuracy, %"),
        ("test_accuracy", "test accuracy, %"),
    )
    return _grid(ended, entries, rows)


def densities(ended: Sequence[Ended], entries: Mapping[str, Entry]) -> Any:
    """Draws the densities against epochs, a column for each batch size."""
    rows = (("density", "φ(g)"), ("corrected_density", "φ(γg + e)"))
    return _grid(ended, entries, rows)


def _grid(
    ended: Sequence[Ended], entries: Mapping[str, Entry],
    rows: Sequence[tuple[str, str]],
) -> Any:
    sizes = list(dict.fromkeys(one.job.batch_size for one in ended))
    names = list(dict.fromkeys(one.job.algorithm for one in ended))
    figure, axes = _plots.grid(len(rows), len(sizes), 4.4, 2.9, sharex=True)
    for (name, size), done in groups(ended):
        for row, (column, label) in enumerate(rows):
            axis = axes[row, sizes.index(size)]
            values = np.stack([one.columns[column] for one in done])
            there = np.isfinite(values).any(axis=0)
            if there.any():
                epochs = 1 + np.flatnonzero(there)
                shown = _without_gaps(values[:, there])
                _plots.curve(
                    axis, epochs, shown, names.index(name), entries[name].label
                )
            if size == sizes[0]:
                axis.set_ylabel(label)
            if row == 0:
                axis.set_title(f"batch {size}", fontsize="medium")
            if row == len(rows) - 1:
                axis.set_xlabel("epoch")
            if column.endswith("loss"):
                axis.set_yscale("log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(names), frameon=False
    )
    count = len(dict.fromkeys(one.job.seed for one in ended))
    if count > 1:
        figure.suptitle(
            f"mean of {count} seeds, shaded from least to greatest", fontsize="medium"
        )
    return figure


def _without_gaps(values: np.ndarray) -> np.ndarray:
    """Returns only rows that are finite throughout, all if there are none."""
    whole = values[np.isfinite(values).all(axis=1)]
    return whole if len(whole) else values

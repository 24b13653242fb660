"""Algorithms side by side: the table and the figure of what they reached and sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ef_optax.wire import Collective
from experiments import _plots
from experiments._results import spread, table
from experiments.training import Algorithm, Run

LEGEND = (
    "Mean ± standard deviation over seeds. Sent: bytes that each worker sends to "
    "others, read off the collectives of the compiled step (of M workers, a ring "
    "all-reduce sends 2(M-1)/M of its buffer and an all-gather M-1 times the message); "
    "beside it, as a part of what a ring sends that averages in float32. Time: on this "
    "machine, without compilation; virtual devices share its cores and wait for no "
    "network."
)


def merit(accuracies: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Orders what was tried: by mean accuracy, of equal ones by mean loss."""
    loss = float(np.mean(losses))
    return float(np.mean(accuracies)), -loss if math.isfinite(loss) else -math.inf


class Entry(NamedTuple):
    """An algorithm of a comparison."""

    label: str
    make: Algorithm


class Measured(NamedTuple):
    """One training and what came of it."""

    run: Run
    bytes_per_step: float
    scores: dict[str, float]


def rows_of(
    entries: Mapping[str, Entry],
    learning_rates: Mapping[str, float],
    measured: Mapping[str, list[Measured]],
    parameters: int,
    workers: int,
) -> str:
    """Returns a table with a row for each algorithm that was measured."""
    whole = Collective("all-reduce", 4 * parameters, workers, times=1)
    rows = []
    for name, done in measured.items():
        sent = done[0].bytes_per_step
        rows.append([
            entries[name].label,
            f"{learning_rates[name]:g}",
            spread([m.scores["train_accuracy"] for m in done]),
            spread([m.scores["test_accuracy"] for m in done]),
            f"{sent / parameters:.3f}",
            f"1/{whole.sent / sent:.1f}" if sent else "nothing",
            spread([1e3 * m.run.seconds / len(m.run.losses) for m in done]),
        ])
    header = ["algorithm", "rate", "train acc. %", "test acc. %",
              "sent B/param/step", "of float32", "ms/step"]
    return table(header, rows)


def figure_of(
    title: str, entries: Mapping[str, Entry], measured: Mapping[str, list[Measured]]
) -> Any:
    """Draws training loss against steps and against bytes sent."""
    figure, (by_step, by_bytes) = _plots.panels(2)
    for number, (name, done) in enumerate(measured.items()):
        steps = len(done[0].run.losses)
        # A batch's loss is noisy: means over forty parts of the training.
        ends = np.unique(np.linspace(0, steps, min(steps, 40) + 1).astype(int))
        runs = [
            [part.mean() for part in np.split(m.run.losses, ends[1:-1])] for m in done
        ]
        label = entries[name].label
        _plots.curve(by_step, ends[1:], runs, number, label)
        if done[0].bytes_per_step:
            sent = ends[1:] * done[0].bytes_per_step / 1e6
            _plots.curve(by_bytes, sent, runs, number, label)
    by_step.set(xlabel="steps", ylabel="training loss", yscale="log")
    by_bytes.set(xlabel="MB that each worker sent", xscale="log")
    handles, labels = by_step.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    seeds = max(len(done) for done in measured.values())
    shade = f": mean of {seeds} seeds, shaded from least to greatest"
    figure.suptitle(title + shade * (seeds > 1), fontsize="medium")
    return figure

"""Figures of the study of the Rosenbrock function, arranged as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import _plots
from experiments._results import count_text
from experiments.toys.rosenbrock._config import Config


def columns_of(
    title: str, columns: Sequence[Any], labels: Sequence[str], config: Config,
    lower_only: Sequence[Any] | None = None,
) -> Any:
    """Draws f, the minimum of rho and the histogram of rho, a column a setting."""
    figure, axes = _plots.grid(3, len(columns), sharey="row")
    for i, (column, label) in enumerate(zip(columns, labels, strict=True)):
        top, middle, bottom = axes[:, i]
        top.set(title=label, yscale="log", xlabel="iteration")
        thin = slice(None, None, max(1, config.steps // 500))
        k = np.arange(column.values.shape[1])[thin]
        _plots.curve(top, k, column.values[:, thin], 1, "every step (Option 1)")
        if lower_only is not None:
            _plots.curve(
                top, k, lower_only[i].values[:, thin], 2, "lower f only (Option 2)"
            )
        at = config.every * np.arange(column.excess.shape[1])
        # Drawn first, so that the exact curve is seen.
        middle.plot(
            at, column.estimates, ".", color="grey", markersize=3,
            label=f"one repetition, estimated from {config.draws} draws",
        )
        _plots.curve(middle, at, 0.5 + 0.5 * column.excess.min(axis=-1), 1, "exact")
        middle.axhline(0.5, color=_plots.COLORS[4], linestyle="--", linewidth=1)
        middle.set(xlabel="iteration", ylim=(0.2, 1.02))
        rho = 0.5 + 0.5 * column.excess.ravel()
        bins = np.linspace(0, 1, 51)
        bottom.hist(
            rho, bins, weights=np.full(rho.size, 1 / rho.size), color=_plots.COLORS[1]
        )
        bottom.axvline(0.5, color=_plots.COLORS[4], linestyle="--", linewidth=1)
        bottom.set(xlabel="exact success probability", xlim=(0.2, 1))
    axes[0, 0].set(ylabel="f, minimum 0")
    axes[1, 0].set(ylabel="minimum of ρ over coordinates")
    axes[2, 0].set(ylabel="part of all coordinates and looks")
    axes[0, 0].legend(frameon=False, fontsize="small")
    axes[1, 0].legend(frameon=False, fontsize="small", loc="upper left")
    _title(figure, title, config.repetitions, config)
    return figure


def workers_of(voted: Any, config: Config) -> Any:
    """Draws mean f against iterations for every number of workers."""
    figure, axes = _plots.grid(1, 2, width=5.6, height=4.8)
    sizes = (f"{config.vote_step_size:g}", f"{config.vote_step_size:g}/√(k+1)")
    k = np.unique(np.geomspace(1, config.steps + 1, 400).astype(int)) - 1
    for axis, size, i in zip(axes[0], sizes, (0, 1), strict=True):
        for number, workers in enumerate(voted.workers):
            # Pairs 2l-1 and 2l in one colour, the even ones dashed.
            axis.plot(
                k, voted.values[i, number].mean(axis=0)[k], linewidth=1.3,
                color=_plots.COLORS[number // 2 % len(_plots.COLORS)],
                linestyle="--" if workers % 2 == 0 else "-",
                label=count_text(workers, 'worker'),
            )
        axis.set(title=f"step size {size}", xlabel="iteration", yscale="log",
                 xscale="symlog", xlim=(0, None))
    axes[0, 0].set(ylabel="f, mean of repetitions")
    axes[0, 1].legend(frameon=False, fontsize="small", ncols=2)
    _title(figure, "majority vote, mini-batch 1", config.vote_repetitions, config)
    return figure


def _title(figure: Any, title: str, repetitions: int, config: Config) -> None:
    figure.suptitle(
        f"Rosenbrock, d={config.dimension}, noise ν={config.noise:g}, {title}: mean of "
        f"{repetitions} repetitions",
        fontsize="medium",
    )

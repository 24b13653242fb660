"""Figures of the study of majority vote."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import _plots
from experiments._results import count_text
from experiments.voting._config import Config
from experiments.voting._methods import METHODS


def overview(outcome: Any, config: Config) -> Any:
    """Draws loss by workers, accuracy by adversaries and accuracy by bytes."""
    figure, axes = _plots.grid(1, 3, width=5.2, height=5.0)
    by_workers, by_adversaries, by_bytes = axes[0]
    most = config.workers[-1]
    steps = config.every * (1 + np.arange(config.steps // config.every))
    for number, (workers, curves) in enumerate(outcome.votes.items()):
        rate = config.vote_rates[str(workers)]
        label = f"{count_text(workers, 'worker')}, rate {rate:g}"
        runs = [c.train_loss for c in curves]
        _plots.curve(by_workers, steps, runs, number, label)
    by_workers.set(
        xlabel="steps", ylabel="training loss", yscale="log",
        title=f"signSGD by vote, {config.batch_size} examples a worker",
    )
    parts = [100 * n / most for n in config.adversaries]
    for number, ((name, factor), accuracies) in enumerate(outcome.attacks.items()):
        label = f"{METHODS[name].label}, -{factor:g} g"
        _plots.curve(by_adversaries, parts, accuracies.T, number, label)
        color = _plots.COLORS[number]
        by_adversaries.plot(parts, accuracies.mean(axis=1), "o", color=color)
    by_adversaries.set(
        xlabel=f"adversaries among {most} workers, %", ylabel="test accuracy, %",
        ylim=(0, 100), title="against the others",
    )
    for number, (name, curves) in enumerate(outcome.methods.items()):
        sent = steps * outcome.wires[name, most].bytes_sent / 1e6
        runs = [c.test_accuracy for c in curves]
        _plots.curve(by_bytes, sent, runs, number, METHODS[name].label)
    by_bytes.set(
        xlabel="MB that each worker sent, and received", ylabel="test accuracy, %",
        xscale="log", ylim=(50, 100), title=f"{most} workers",
    )
    for axis in axes[0]:
        axis.legend(frameon=False, fontsize="small")
    seeds = len(config.seeds)
    figure.suptitle(
        f"{config.data}: mean of {count_text(seeds, 'seed')}, shaded from least to "
        "greatest", fontsize="medium",
    )
    return figure


def noise(outcome: Any, config: Config) -> Any:
    """Draws how often votes are wrong, and the bound of Theorem 2's proof."""
    figure, axes = _plots.grid(1, 2, width=5.2, height=4.6)
    left, right = axes[0]
    workers = np.array(config.workers)
    for number, (steps, seen) in enumerate(outcome.noise.items()):
        color = _plots.COLORS[number % len(_plots.COLORS)]
        size = np.abs(seen.gradient)
        wrong = (seen.wrong * size).sum(axis=1) / size.sum()
        left.plot(workers, wrong, "o-", color=color, label=f"after {steps} steps")
        bound = seen.deviation.sum() / size.sum() / np.sqrt(workers)
        left.plot(workers, bound, ":", color=color)
        order = np.argsort(seen.lean)
        right.plot(
            seen.lean[order], np.cumsum(size[order]) / size.sum(), color=color,
            label=f"after {steps} steps",
        )
    left.set(
        xlabel="workers", ylabel="mean of P[vote wrong] weighted with |g|",
        xscale="log", yscale="log", xticks=workers, xticklabels=workers,
        yticks=[0.2, 0.5, 1, 2, 5], yticklabels=[0.2, 0.5, 1, 2, 5],
        title="solid: measured, dotted: |σ|₁/(|g|₁√M)",
    )
    left.minorticks_off()
    right.axvline(0, color="grey", linewidth=0.8, linestyle="--")
    right.set(
        xlabel="mean of sign(stochastic gradient) · sign(g)",
        ylabel="part of |g|₁ in coordinates up to here", xlim=(-1, 1),
        title="left of 0 signs lean the wrong way",
    )
    for axis in axes[0]:
        axis.legend(frameon=False, fontsize="small")
    figure.suptitle(
        f"{config.data}, {config.batch_size} examples a worker, a run with 1 worker",
        fontsize="medium",
    )
    return figure

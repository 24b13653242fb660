"""Figures of the densities of gradient and noise, and of the noise itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import _plots
from experiments._results import count_text
from experiments.cifar._algorithms import ALGORITHMS
from experiments.cifar._noise_claims import Series


def densities(config: Any, series: Sequence[Series]) -> Any:
    """Draws both densities, and their ratio below, a column for each algorithm."""
    names = list(dict.fromkeys(one.algorithm for one in series))
    figure, axes = _plots.grid(2, len(names), 3.8, 2.7, sharex=True, sharey="row")
    for (above, below), name in zip(axes.T, names, strict=True):
        several = [one for one in series if one.algorithm == name]
        whole = max(several, key=lambda one: len(one.epochs)).epochs
        # A training that diverged was measured less often.
        several = [one for one in several if len(one.epochs) == len(whole)]
        gradient = np.stack([one.gradient for one in several])
        noise = np.stack([one.noise for one in several])
        _plots.curve(above, whole, gradient, 1, "gradient, φ(g)")
        _plots.curve(above, whole, noise, 2, "noise, φ(σ)")
        _plots.curve(below, whole, noise / gradient, 0, "R2")
        for axis in (above, below):
            for drop in config.drops:
                axis.axvline(round(drop * config.epochs), color="grey", linewidth=0.8,
                             linestyle=":")
        above.set_title(ALGORITHMS[name].label, fontsize="medium")
        below.set_xlabel("epochs trained")
    axes[0, 0].set(ylabel="density φ", ylim=(0, None))
    axes[1, 0].set(ylabel="R2 = φ(σ)/φ(g)", ylim=(0, None))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False,
        title="dotted: the learning rate falls; shaded: from least to greatest of "
        f"{count_text(len(config.seeds), 'seed')}", title_fontsize="small",
    )
    return figure


def histograms(config: Any, drawn: Mapping[str, Mapping[str, Any]]) -> Any:
    """Draws the noise of the first three parameters, a column for each algorithm."""
    figure, axes = _plots.grid(3, len(drawn), 3.4, 2.3, sharex=True, sharey=True)
    x = np.linspace(-4, 4, 200)
    for column, (name, line) in zip(axes.T, drawn.items(), strict=True):
        column[0].set_title(ALGORITHMS[name].label, fontsize="medium")
        column[-1].set_xlabel("noise / its standard deviation")
        for axis, sample, parameter, skew, p in zip(
            column, line["noise_samples"], line["parameters"], line["skewness"],
            line["unimodality_p"], strict=False,
        ):
            noise = np.array(sample, float)
            deviation = noise.std()
            if deviation > 0:
                axis.hist(np.clip(noise / deviation, -4, 4), bins=32, range=(-4, 4),
                          density=True, color=_plots.COLORS[6])
            axis.plot(x, np.exp(-x * x / 2) / np.sqrt(2 * np.pi), linewidth=1,
                      color=_plots.COLORS[0], linestyle="--")
            text = f"{parameter}\nskewness {skew:.2f}\np of one mode {p:.2f}"
            axis.text(0.02, 0.97, text, transform=axis.transAxes, va="top", fontsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("density of probability")
    axes[0, 0].set_ylim(0, 0.75)
    figure.suptitle(
        f"noise of the stochastic gradient after {config.histogram_epoch} epochs, "
        "parameters drawn at random; dashed: Gaussian", fontsize="medium",
    )
    return figure

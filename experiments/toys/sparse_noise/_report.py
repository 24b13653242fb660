"""Metrics, verdicts, summary and figure of the study of sparse noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import _plots
from experiments._results import Results, spread, table
from experiments.toys.sparse_noise._config import FAST, METHODS, SLOW, TENTH, Config

CONSTANT, DECREASING = "constant", "1/sqrt(t)"
Losses = dict[str, np.ndarray]


def level(values: np.ndarray) -> np.ndarray:
    """Returns the mean loss over the last tenth of each run; infinite if not finite."""
    last = values[..., -(values.shape[-1] // TENTH) :].mean(-1, dtype=np.float64)
    return np.where(np.isfinite(last), last, np.inf)


def metrics(
    results: Results, config: Config, seen: dict[str, Losses], grid: Losses
) -> None:
    """Writes metrics.jsonl."""
    at = [t for t in (0, 100, 300, 1000, 3000, 10_000) if t <= config.long]
    for schedule, runs in seen.items():
        for name, values in runs.items():
            rates = config.rates if schedule == CONSTANT else config.decreasing
            results.metric(
                method=name, schedule=schedule, learning_rate=rates[name], steps=at,
                mean=values[:, at].mean(0), deviation=values[:, at].std(0, ddof=1),
            )
    for name, values in grid.items():
        for rate, runs in zip(config.grid, values, strict=True):
            results.metric(
                method=name, schedule="grid", learning_rate=rate,
                level=level(runs), mean=runs.mean(),
            )


def verdicts(
    results: Results, config: Config, seen: dict[str, Losses], grid: Losses
) -> None:
    """Gives the verdict on every claim."""
    few = f"Not with {config.repeats} repeats and {config.steps} steps as configured."
    mean = {k: v[:, : config.steps + 1].mean(0) for k, v in seen[CONSTANT].items()}
    apart = max(abs(mean["EF-signSGD"] / mean["SGD"] - 1))
    fast = all((mean[name][config.soon :] <= config.low).all() for name in FAST)
    slow = all((mean[name] > config.low).all() for name in SLOW)
    results.verdict(
        "figure_5", fast and slow and apart <= config.together,
        f"at step {config.soon} and {config.steps} "
        + ", ".join(
            f"{name} {spread(v[:, config.soon], 1)} and {spread(v[:, config.steps], 1)}"
            for name, v in seen[CONSTANT].items()
        ) + f"; SGD and EF-signSGD differ by at most {apart:.1%}",
        "" if fast and slow and apart <= config.together else few,
    )
    levels = {name: level(values).mean(1) for name, values in grid.items()}
    best = {name: config.grid[int(v.argmin())] for name, v in levels.items()}
    holds = best == {name: 0.01 if name in FAST else 0.001 for name in METHODS}
    by_mean = {
        name: config.grid[int(np.nan_to_num(v.mean((1, 2)), nan=np.inf).argmin())]
        for name, v in grid.items()
    }
    results.verdict(
        "rates", holds,
        ", ".join(f"{name} {best[name]:g} (loss {v.min():.2f})"
                  for name, v in levels.items()),
        "By the mean loss over the whole run instead of its end: "
        + ", ".join(f"{name} {rate:g}" for name, rate in by_mean.items())
        + ". How the papers chose is not said.",
    )
    for key, schedule in (("figure_a1", CONSTANT), ("decreasing", DECREASING)):
        runs = {
            name: seen[schedule][name][: config.repeats // 2]
            for name in ("signSGD", "SGD")
        }
        ratio = (runs["signSGD"].mean(0) / runs["SGD"].mean(0))[config.early :]
        results.verdict(
            key, ratio.max() < 1,
            f"signSGD's mean loss is at most {ratio.max():.2f} of SGD's; at step "
            f"{config.long} " + ", ".join(
                f"{name} {spread(values[:, -1])}" for name, values in runs.items()
            ),
            "" if ratio.max() < 1 else
            f"At step {config.early + int(ratio.argmax())} it is "
            f"{ratio.max():.2f} times SGD's.",
        )


def text(config: Config, seen: dict[str, Losses], grid: Losses) -> str:
    """Returns the summary."""
    at = sorted({
        t for t in (config.early, config.soon, config.steps, config.long)
    })
    rows = [
        [f"{name}, {schedule}", f"{rates[name]:g}",
         *(spread(values[:, t]) for t in at)]
        for schedule, rates in (
            (CONSTANT, config.rates), (DECREASING, config.decreasing)
        )
        for name, values in seen[schedule].items()
    ]
    tuned = [
        [name, *(f"{x:.3g}" for x in level(values).mean(1))]
        for name, values in grid.items()
    ]
    return (
        f"f = ‖x‖²/2, d = {config.dimension}; the gradient x has noise N(0, "
        f"{config.noise:g}²) in its first coordinate; x_0 from N(0, 1); "
        f"{config.repeats} repeats, mean ± deviation of the loss. The same x_0 and "
        "noise for all methods; EF-signSGD starts every repeat without an error (the "
        "reference code carries it over). The rates of scaled signSGD and EF-signSGD "
        "with 1/√t, which no paper has, are those of signSGD and SGD.\n\n"
        + table(["", "rate", *(f"step {t}" for t in at)], rows)
        + f"\n\nMean loss over the last tenth of {config.steps} steps, by constant "
        "learning rate:\n\n"
        + table(["", *(f"{rate:g}" for rate in config.grid)], tuned)
    )


def figure(config: Config, seen: dict[str, Losses], grid: Losses) -> Any:
    """Draws Figures 5 and A.1, the decreasing rates, and the grid."""
    figure, axes = _plots.grid(2, 2, width=5.2, height=3.9)
    # As many points as the eye can tell apart.
    spaced = np.unique(np.geomspace(1, config.long, 400).astype(int))
    for axis, schedule, at in (
        (axes[0, 0], CONSTANT, np.arange(config.steps + 1)),
        (axes[0, 1], CONSTANT, spaced), (axes[1, 0], DECREASING, spaced),
    ):
        rates = config.rates if schedule == CONSTANT else config.decreasing
        for number, (name, values) in enumerate(seen[schedule].items()):
            values, color = values[:, at], _plots.COLORS[number]
            mean, deviation = values.mean(0), values.std(0, ddof=1)
            # Less than one deviation below the mean may be below 0.
            low, high = (
                (mean - deviation, mean + deviation) if axis is axes[0, 0]
                else np.quantile(values, (0.1, 0.9), axis=0)
            )
            axis.plot(
                at, mean, color=color, linestyle=_plots.DASHES[number],
                label=f"{name}, γ = {rates[name]:g}"
                + "/√t" * (schedule == DECREASING),
            )
            axis.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set(xlabel="step", ylabel="loss, mean and 10% to 90% of the repeats")
        axis.legend(fontsize=8, framealpha=0.7)
    axes[0, 0].set_ylabel("loss, mean ± deviation")
    axes[0, 0].set_title(f"Figure 5: {config.repeats} repeats")
    axes[0, 1].set(xscale="log", yscale="log", title="as in Figure A.1's notebook")
    axes[1, 0].set(xscale="log", yscale="log", title="1/√t")
    for number, (name, values) in enumerate(grid.items()):
        axes[1, 1].plot(
            config.grid, np.minimum(level(values).mean(1), 1e4),
            color=_plots.COLORS[number], linestyle=_plots.DASHES[number], marker="o",
            label=name,
        )
    axes[1, 1].set(
        xscale="log", yscale="log", xlabel="constant learning rate",
        ylabel=f"mean loss, last tenth of {config.steps} steps", title="learning rates",
    )
    axes[1, 1].legend(fontsize=8, framealpha=0.7)
    return figure

"""The figures of the counterexamples."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import _plots
from experiments.toys.counterexamples import _geometry, _problems
from experiments.toys.counterexamples._config import Config
from experiments.toys.counterexamples._measured import Measured

COLORS = {
    "signSGD": 1, "scaled signSGD": 2, "Signum": 3, "SGD": 0, "EF-signSGD": 5,
}
AT = "f(1, 1)"
FLOOR = 1e-8  # what is smaller is drawn there, on logarithmic axes


def courses(config: Config, m: Measured) -> Any:
    """Draws what happens along the runs."""
    figure, axes = _plots.grid(2, 3, width=4.6, height=3.9)
    _example_1(axes[0, 0], config, m)
    for axis, number, runs in (
        (axes[0, 1], 2, m.on_2), (axes[0, 2], 3, m.on_3),
    ):
        _against_schedules(axis, config, runs)
        axis.set_title(f"counterexample {number}, ε = {config.epsilon:g}")
    _momentum(axes[1, 0], config, m)
    _votes(axes[1, 1], config, m)
    _theorem_1(axes[1, 2], config, m)
    for axis in axes.flat:
        axis.set_xlabel("step")
        corner = "best" if axis is axes[0, 0] else "lower left"
        axis.legend(fontsize=7, framealpha=0.7, loc=corner)
    return figure


def _line(axis: Any, values: Any, name: str, label: str, **how: Any) -> None:
    values = np.maximum(np.minimum.accumulate(values), FLOOR)
    number = COLORS[name]
    axis.plot(
        np.arange(1, len(values) + 1), values, label=label, linewidth=1.2,
        **{"color": _plots.COLORS[number], "linestyle": _plots.DASHES[number]} | how,
    )


def _example_1(axis: Any, config: Config, m: Measured) -> None:
    rate = min(1, len(config.fixed) - 1)
    for name, run in m.example_1.items():
        axis.plot(
            run["path"][rate].mean(0) / 4, color=_plots.COLORS[COLORS[name]],
            linestyle=_plots.DASHES[COLORS[name]], linewidth=1.5, label=name,
        )
    axis.axhline(-0.25, color="grey", linewidth=0.8, linestyle=":")
    axis.set(
        ylabel="f, mean of the repeats (dotted: least)",
        title=f"counterexample 1, γ = {config.fixed[rate]:g}",
    )


def _against_schedules(axis: Any, config: Config, runs: dict[str, Any]) -> None:
    which = config.epsilons.index(config.epsilon)
    for name in ("SGD", "EF-signSGD", "signSGD"):
        for i in range(len(config.schedules)):
            values = runs[name].losses[which, i, 0]
            label = f"{name}, {len(config.schedules)} schedules"
            _line(axis, values, name, "_" * (i > 0) + label)
    axis.set(xscale="log", yscale="log", ylabel=f"least f so far / {AT}, one run")


def _momentum(axis: Any, config: Config, m: Measured) -> None:
    size = config.schedules.index("0.01") if "0.01" in config.schedules else 0
    for i, epsilon in enumerate(config.momentum_epsilons):
        for number, points in zip((2, 3), m.momentum[config.beta], strict=True):
            _line(
                axis, points.losses[i, size, 0], "Signum",
                f"CE{number}, ε = {epsilon:g}", linestyle="-" if number == 2 else "--",
                color=_plots.COLORS[(i + 1) % len(_plots.COLORS)],
            )
    axis.set(
        xscale="log", yscale="log", ylabel=f"least f so far / {AT}, one run",
        title=f"Signum, β = {config.beta:g}, γ: {config.schedules[size]}",
    )


def _votes(axis: Any, config: Config, m: Measured) -> None:
    styles = {"zero": "-", "positive": "--", "random": ":"}
    size = next(
        (i for i, name in enumerate(config.schedules) if name == "1/sqrt(t)"), 0
    )
    for number, workers in enumerate(config.workers, 1):
        color = _plots.COLORS[number % len(_plots.COLORS)]
        axis.plot([], [], color=color, label=f"M = {workers}")
        for tie, style in styles.items():
            values = m.votes[workers, tie].sums[size, 0]
            axis.plot(
                np.arange(1, len(values) + 1), values, color=color, linestyle=style,
                linewidth=1.4,
            )
    for label, style in zip(("0", "+1", "a random sign"), styles.values(), strict=True):
        axis.plot([], [], color="grey", linestyle=style, label=f"a tie gives {label}")
    axis.set_yscale("symlog")
    axis.set(
        ylabel="x1 + x2 (0 at the optimum), one run", xscale="log",
        title=f"votes, CE3, ε = {config.epsilon:g}, γ: {config.schedules[size]}",
    )


def _theorem_1(axis: Any, config: Config, m: Measured) -> None:
    for number, dimension in enumerate(config.dimensions):
        for name, style in (("signSGD", "-"), ("EF-signSGD", "--")):
            away = m.theorem_1[dimension, name]
            best = away.distance[0, :, :, -1].max(1).argmin()
            axis.plot(
                np.maximum(away.distance[0, best].mean(0), FLOOR), linestyle=style,
                color=_plots.COLORS[number + 1], linewidth=1.3,
                label=f"{name}, d = {dimension}, γ: {config.schedules[best]}",
            )
    axis.set(
        ylabel="distance to x* / at the start, mean", yscale="log",
        title="Theorem I, l(z) = z²/2, best schedules",
    )


def geometry(config: Config, m: Measured) -> Any:
    """Draws Figure 1, paths among the contours of f, and the cone of S & R."""
    figure, axes = _plots.grid(1, 3, width=4.8, height=5.0)
    _figure_1(axes[0, 0], config)
    _paths(axes[0, 1], config, m)
    _cone(axes[0, 2], config)
    for axis in axes.flat:
        axis.set(xlabel="x1", ylabel="x2", aspect="equal")
        axis.title.set_fontsize(10)
        axis.legend(fontsize=7, loc="lower left", framealpha=0.9)
    return figure


def _contours(axis: Any, loss: Any, low: float, high: float, epsilon: float) -> Any:
    grid = np.stack(np.meshgrid(*[np.linspace(low, high, 201)] * 2), -1)
    values = loss(grid, epsilon)
    axis.contour(
        grid[..., 0], grid[..., 1], values, levels=12, colors="grey", linewidths=0.5,
        alpha=0.7,
    )
    return grid


def _on_line(axis: Any, low: float, high: float) -> None:
    axis.plot(
        [low, high], [2 - low, 2 - high], color=_plots.COLORS[1], linewidth=0.8,
        linestyle=":", label="x1 + x2 = 2",
    )
    axis.set(xlim=(low, high), ylim=(low, high))


def _arrow(axis: Any, at: Any, by: Any, **how: Any) -> None:
    axis.annotate(
        "", xy=np.add(at, by), xytext=at,
        arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **how},
    )


def _figure_1(axis: Any, config: Config) -> None:
    low, high = -1.0, 3.6
    _contours(axis, _problems.loss_2, low, high, config.epsilon)
    _on_line(axis, low, high)
    points = np.array([[1.6, 0.4], [0.4, 1.6]])
    for number, (at, g, sign, error) in enumerate(
        zip(points, *_geometry.arrows(points, config.epsilon), strict=True), 1
    ):
        _arrow(axis, at, g, color="black", linewidth=1.6)
        _arrow(axis, at, sign, color="black", linewidth=1.2, linestyle="--")
        _arrow(axis, at, error, color=_plots.COLORS[4], linewidth=1.6)
        for name, by in (("g", g), ("s", sign), ("e", error)):
            axis.annotate(
                f"{name}{number}", np.add(at, by), fontsize=9,
                textcoords="offset points", xytext=(3, 3),
            )
    for label, color, style in (
        ("subgradient g", "black", "-"), ("its sign s", "black", "--"),
        ("error e = g - (‖g‖₁/d) s", _plots.COLORS[4], "-"),
    ):
        axis.plot([], [], color=color, linestyle=style, label=label)
    axis.set_title(f"Karimireddy et al., Figure 1 (ε = {config.epsilon:g})")


def _paths(axis: Any, config: Config, m: Measured) -> None:
    low, high = -0.8, 2.0
    _contours(axis, _problems.loss_2, low, high, config.epsilon)
    _on_line(axis, low, high)
    for name, path in m.paths.items():
        number = COLORS[name]
        axis.plot(
            *path.T, color=_plots.COLORS[number], linewidth=1.1,
            linestyle="-" if name == "signSGD" else _plots.DASHES[number],
            marker=".", markersize=3, label=name,
        )
    axis.set_title(f"paths on counterexample 2, γ = {_geometry.PATH_RATE:g}")


def _cone(axis: Any, config: Config) -> None:
    low, high = -2.0, 2.0
    grid = _contours(axis, _problems.loss_3, low, high, config.epsilon)
    across, along = grid[..., 0] - grid[..., 1], grid[..., 0] + grid[..., 1]
    inside = (config.epsilon * along) ** 2 > across**2
    axis.contourf(
        grid[..., 0], grid[..., 1], inside, levels=[0.5, 1.5],
        colors=[_plots.COLORS[2]], alpha=0.3,
    )
    axis.plot([], [], color=_plots.COLORS[2], linewidth=6, alpha=0.4,
              label="cone: ρ = 1/2, s = ±(1, -1)")
    _on_line(axis, low, high)
    # Outside both terms have the same sign: the step is certain.
    for x in np.linspace(-1.6, 1.6, 7):
        for y in np.linspace(-1.6, 1.6, 7):
            if abs(x - y) > config.epsilon * abs(x + y) + 0.1:
                step = -np.sign(x - y) * 0.22
                _arrow(axis, (x, y), (step, -step), color="black", linewidth=0.8)
    axis.plot([], [], color="black", label="step, outside (ρ = 1)")
    axis.set_title(f"S & R, section 2.2: counterexample 3 (ε = {config.epsilon:g})")

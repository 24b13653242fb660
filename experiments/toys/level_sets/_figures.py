"""Figures of the study of the l^{1,2} norm."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import _plots
from experiments.toys.level_sets._config import Config
from experiments.toys.level_sets._shapes import Shape, norms


def _outline(axis: Any, shape: Shape, number: int, label: str) -> None:
    angles = np.linspace(0, 2 * np.pi, len(shape.radii))
    axis.plot(
        shape.radii * np.cos(angles), shape.radii * np.sin(angles), label=label,
        color=_plots.COLORS[number], linestyle=_plots.DASHES[number], linewidth=1.8,
    )


def level_sets_of(config: Config, sets: list[Shape]) -> Any:
    """Draws contours at each scale, and the circle and the diamond beside one."""
    figure, axes = _plots.grid(1, len(sets), height=4.2)
    angles = np.linspace(0, 2 * np.pi, 400)
    for axis, scale, shape in zip(axes[0], config.scales, sets, strict=True):
        side = np.linspace(-1.4 * scale, 1.4 * scale, 101, dtype=np.float32)
        points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        noise = np.full(len(points), config.sigma, np.float32)
        field_ = np.asarray(norms(points, noise)).reshape(len(side), -1)
        axis.contour(side, side, field_, levels=12, cmap="Greys", linewidths=0.7)
        _outline(axis, shape, 1, "level set of the l$^{1,2}$ norm")
        size = shape.radii[0]
        axis.plot(size * np.cos(angles), size * np.sin(angles), ":", linewidth=1.4,
                  color=_plots.COLORS[4], label="circle (l$^2$)")
        axis.plot(size * np.array([1, 0, -1, 0, 1]), size * np.array([0, 1, 0, -1, 0]),
                  "--", linewidth=1.2, color=_plots.COLORS[5], label="diamond (l$^1$)")
        axis.set(title=f"at a distance of {scale:g}", aspect="equal", xlabel="$g_1$")
        axis.locator_params(nbins=4)
    axes[0, 0].set(ylabel="$g_2$")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"Contours of the l$^{{1,2}}$ norm, σ = {config.sigma:g}")
    return figure


def unit_balls_of(config: Config, balls: list[Shape]) -> Any:
    """Draws the unit balls of all noises in one panel."""
    figure, axes = _plots.grid(1, 1, width=5.6, height=5.4)
    for number, (noise, shape) in enumerate(zip(config.noises, balls, strict=True)):
        _outline(axes[0, 0], shape, number % len(_plots.COLORS), f"σ = {noise:g}")
    axes[0, 0].set(aspect="equal", xlabel="$g_1$", ylabel="$g_2$",
                   title="Unit balls of the l$^{1,2}$ norm")
    figure.legend(loc="outside lower center", ncols=len(balls), frameon=False)
    return figure

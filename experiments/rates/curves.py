"""What was measured against what a theorem allows: ratios, slopes, verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter

from experiments import _plots
from experiments._results import Results, table


@dataclasses.dataclass(frozen=True)
class Curve:
    """One quantity at several horizons, and its bound there.

    Attributes:
      label: what ran.
      at: the horizons, or whatever else the bound depends on.
      runs: what was measured, as [seeds, horizons]; the theorem is about the mean.
      bound: the theorem's right-hand side.
      rate: how the theorem says it falls, up to a factor; None if nothing is said.
      fit_from: the least horizon in the slope.
    """

    label: str
    at: Any
    runs: Any
    bound: Any
    rate: Any = None
    fit_from: float = 0.0

    def __post_init__(self) -> None:
        """Takes float64 arrays of one length, and refuses what is not finite."""
        for name in ("at", "runs", "bound"):
            array = np.asarray(getattr(self, name), np.float64)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} of {self.label!r} is not finite.")
            object.__setattr__(self, name, array)
        shape = (len(self.runs), len(self.at))
        if self.runs.shape != shape or self.bound.shape != shape[1:]:
            raise ValueError(
                f"{self.label!r}: runs of shape {self.runs.shape} and bounds of shape "
                f"{self.bound.shape} do not fit {len(self.at)} horizons."
            )

    @property
    def mean(self) -> np.ndarray:
        """Over the seeds."""
        return self.runs.mean(axis=0)

    @property
    def deviation(self) -> np.ndarray:
        """Over the seeds; 0 of one."""
        if len(self.runs) < 2:
            return np.zeros(len(self.at))
        return self.runs.std(axis=0, ddof=1)

    @property
    def ratio(self) -> np.ndarray:
        """How much of the bound is used."""
        return self.mean / self.bound

    def above(self, errors: float) -> np.ndarray:
        """The horizons where the mean is above the bound by so many standard errors.

        A mean of few seeds may be above a tight bound of its expectation by chance.
        """
        error = self.deviation / np.sqrt(len(self.runs))
        # Rounding of float32 sums, where there is no deviation.
        return self.at[self.mean - errors * error > self.bound * (1 + 1e-5)]

    def slope(self) -> tuple[float, float] | None:
        """Of the mean in log-log, and its deviation over the seeds; None if unfit."""
        used = self._fitted()
        if used.sum() < 2 or (self.mean[used] <= 0).any():
            return None
        x = np.log(self.at[used])
        each = [
            np.polyfit(x, np.log(run), 1)[0]
            for run in self.runs[:, used] if (run > 0).all()
        ]
        spread = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
        return float(np.polyfit(x, np.log(self.mean[used]), 1)[0]), spread

    def slope_of_rate(self) -> float | None:
        """The slope of the theorem's rate on the same horizons."""
        used = self._fitted()
        if self.rate is None or used.sum() < 2:
            return None
        rate = np.asarray(self.rate, np.float64)[used]
        return float(np.polyfit(np.log(self.at[used]), np.log(rate), 1)[0])

    def falls(self, tolerance: float) -> bool:
        """Whether the slope is at most the rate's; yes if there is nothing to fit."""
        measured, wanted = self.slope(), self.slope_of_rate()
        if measured is None or wanted is None:
            return True
        return measured[0] <= wanted + tolerance

    def _fitted(self) -> np.ndarray:
        return self.at >= self.fit_from


class Comparison:
    """The curves of one claim.

    Args:
      key: of the claim.
      curves: of which all must keep to their bounds.
      errors: by how many standard errors a mean may be above.
      tolerance: by how much a slope may be less steep than the theorem's.
    """

    def __init__(
        self, key: str, curves: Sequence[Curve], errors: float, tolerance: float = 0.0
    ):
        self.key, self.curves = key, list(curves)
        self.errors, self.tolerance = errors, tolerance

    @property
    def holds(self) -> bool:
        """Whether no mean is above its bound and every slope is steep enough."""
        return all(
            not c.above(self.errors).size and c.falls(self.tolerance)
            for c in self.curves
        )

    @property
    def number(self) -> str:
        """The largest part of the bound that was used, and the slopes."""
        worst = max(self.curves, key=lambda c: c.ratio.max())
        at = int(worst.ratio.argmax())
        part = worst.deviation[at] / worst.bound[at]
        text = (
            f"at most {worst.ratio[at]:.3g} ± {part:.1g} of the bound ({worst.label}, "
            f"at {worst.at[at]:g})"
        )
        over = worst.mean[at] - worst.bound[at]
        if over > 1e-5 * worst.bound[at] and not worst.above(self.errors).size:
            error = worst.deviation[at] / np.sqrt(len(worst.runs))
            text += (
                f", above it by {over / error:.1f} standard errors of the mean: there "
                "the theorem is nearly an equality"
            )
        slopes = [
            (*c.slope(), c.slope_of_rate()) for c in self.curves  # type: ignore[misc]
            if c.slope() is not None and c.slope_of_rate() is not None
        ]
        if slopes:
            value, spread, rate = max(slopes, key=lambda s: s[0] - s[2])
            text += (
                f"; least steep slope {value:.3f} ± {spread:.2g} "
                f"where the theorem's is {rate:.3f}"
            )
        return text

    @property
    def why(self) -> str:
        """What does not keep to the theorem, empty if all does."""
        faults = []
        for c in self.curves:
            above = c.above(self.errors)
            if above.size:
                where = ", ".join(f"{t:g}" for t in above)
                faults.append(
                    f"{c.label}: above the bound at {where}, up to "
                    f"{c.ratio.max():.3g} times"
                )
            if not c.falls(self.tolerance):
                measured, wanted = c.slope(), c.slope_of_rate()
                assert measured is not None
                faults.append(f"{c.label}: slope {measured[0]:.3f}, not {wanted:.3f}")
        return "; ".join(faults)

    def record(self, results: Results) -> None:
        """Writes a line to metrics.jsonl for each curve and horizon."""
        for c in self.curves:
            slope = c.slope()
            for i, at in enumerate(c.at):
                results.metric(
                    claim=self.key, curve=c.label, at=at, mean=c.mean[i],
                    deviation=c.deviation[i], bound=c.bound[i], ratio=c.ratio[i],
                    slope=slope and slope[0], slope_of_rate=c.slope_of_rate(),
                )

    def judge(self, results: Results, extra: str = "", analysis: str = "") -> None:
        """Records the curves and the verdict on the claim.

        Args:
          results: of the study.
          extra: what else was measured.
          analysis: why the claim may fail, if that is known.
        """
        self.record(results)
        number = self.number + (f"; {extra}" if extra else "")
        why = "; ".join(filter(None, (self.why, analysis if self.why else "")))
        results.verdict(self.key, self.holds, number, why)

    def rows(self) -> list[list[str]]:
        """Rows for `summary`."""
        rows = []
        for c in self.curves:
            slope, rate = c.slope(), c.slope_of_rate()
            at = int(c.ratio.argmax())
            rows.append([
                self.key, c.label, f"{c.ratio[at]:.3g}", f"{c.at[at]:g}",
                "" if slope is None or rate is None else shown(slope),
                "" if slope is None or rate is None else f"{rate:.3f}",
            ])
        return rows


def shown(slope: tuple[float, float] | None) -> str:
    """Returns a slope and its deviation as text."""
    return "unknown" if slope is None else f"{slope[0]:.3f} ± {slope[1]:.2g}"


def summary(comparisons: Sequence[Comparison]) -> str:
    """Returns all curves as a table."""
    return table(
        ["claim", "run", "largest part of the bound", "at", "slope", "theorem's"],
        [row for c in comparisons for row in c.rows()],
    )


def draw(
    axis: Any, curves: Sequence[Curve], bound: str = "its bound, in its colour"
) -> None:
    """Draws means with their spread over the seeds, and in each colour its bound."""
    for number, c in enumerate(curves):
        _plots.curve(axis, c.at, c.runs, number, c.label)
        axis.plot(
            c.at, c.bound, color=_plots.COLORS[number % len(_plots.COLORS)],
            linewidth=0.8, marker="v", markersize=3.5, alpha=0.8,
            label=bound if number == 0 else None,
        )
    axis.set(xscale="log", yscale="log")
    # Labels of minor ticks take longer than all the rest.
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())


def guide(axis: Any, curve: Curve, text: str) -> None:
    """Draws the theorem's rate as a line below a curve."""
    rate = np.asarray(curve.rate, np.float64)
    axis.plot(
        curve.at, rate * (curve.mean[-1] / rate[-1] / 2), color="grey", linewidth=1,
        linestyle=":", label=text,
    )


def overview(comparisons: Sequence[Comparison], names: dict[str, str]) -> Any:
    """Returns a figure of which part of its bound every run used."""
    figure, (axis,) = _plots.panels(1, width=8.4, height=0.42 * len(comparisons) + 1.6)
    for row, comparison in enumerate(comparisons):
        ratios = np.concatenate([c.ratio for c in comparison.curves])
        seen = ratios[ratios > 1e-4]
        axis.plot(
            seen, np.full(len(seen), row), "o", markersize=3.5, alpha=0.35,
            color=_plots.COLORS[1], markeredgewidth=0,
        )
        axis.plot(ratios.max(), row, "D", markersize=6, color=_plots.COLORS[0])
        axis.annotate(
            f"{ratios.max():.2g}", (1, row), xycoords=("axes fraction", "data"),
            xytext=(4, -3), textcoords="offset points", fontsize=8,
        )
    axis.axvline(1, color=_plots.COLORS[4], linewidth=1.5)
    axis.set(
        xscale="log", xlim=(1e-4, 3), yticks=range(len(comparisons)),
        yticklabels=[names[c.key] for c in comparisons],
        xlabel="measured ÷ bound, each run at each horizon (diamond: most)",
    )
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.invert_yaxis()
    return figure


def ticks(axis: Any, values: Any) -> None:
    """Writes the values themselves on a logarithmic horizontal axis."""
    axis.set_xticks(values, [f"{v:g}" for v in values])
    axis.tick_params(axis="x", which="minor", bottom=False)


def renamed(curves: Sequence[Curve], suffix: str) -> list[Curve]:
    """Returns the curves whose labels end so, without that end."""
    return [
        dataclasses.replace(c, label=c.label.removesuffix(suffix))
        for c in curves if c.label.endswith(suffix)
    ]

"""Which claims hold, by the criteria of the configuration, and why if they do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments._results import Results, spread
from experiments.toys.rosenbrock import _problem, _runs
from experiments.toys.rosenbrock._config import Config


def judge(results: Results, config: Config, outcome: Any) -> None:
    """Records the verdicts of all claims."""
    _figure_2(results, config, outcome.batches)
    _figure_6(results, config, outcome.decreasing)
    _figure_8(results, config, outcome)
    _theorems(results, outcome)
    _figure_4(results, config, outcome.votes)


def _say(results: Results, key: str, holds: Any, number: str, why: str) -> None:
    """Records a verdict; `why` is of one that does not hold."""
    results.verdict(key, holds, number, "" if holds else why)


def _level(column: Any) -> float:
    return float(np.median(_runs.last_quarter(column.values)))


def _join(numbers: Iterable[float], form: str = ".3g") -> str:
    return ", ".join(format(n, form) for n in numbers)


def _falls(numbers: Sequence[float]) -> bool:
    return bool(np.all(np.diff(numbers) < 0))


def _figure_2(results: Results, config: Config, columns: Any) -> None:
    first, second = _runs.slopes(columns[0].values), _runs.slopes(columns[1].values)
    start = columns[0].values[0, 0]
    _say(
        results, "fig2_divergence", np.mean(first) >= config.rises,
        f"slope {spread(first)}, f from {start:.4g} to {_level(columns[0]):.3g}",
        "f does not rise as fast within these iterations; see the sweep",
    )
    end = columns[1].values[:, 3 * columns[1].values.shape[1] // 4 :]
    swings = np.log10(np.maximum(end, 1e-12)).std(axis=1)
    _say(
        results, "fig2_oscillation",
        abs(np.mean(second)) < config.rises and swings.mean() >= config.swing,
        f"slope {spread(second)}, deviation {spread(swings)}, f from {start:.4g} to "
        f"{_level(columns[1]):.3g}",
        "f drifts as well as it swings; Figure 8 shows the very same setting as an "
        "example of divergence",
    )
    least = [0.5 + 0.5 * float(c.excess.min()) for c in columns]
    estimated = [float(c.estimates.min()) for c in columns]
    _say(
        results, "fig2_spb", max(least[:2]) < 0.5 - config.tolerance,
        f"least rho {_join(least, '.6f')} with mini-batches {_join(config.batches)}; "
        f"least estimate from {config.draws} draws {_join(estimated, '.2f')}",
        "with the gradient as printed it cannot be violated: 2 rho_i - 1 is a sum over "
        "pairs (n, m), (m, n) of draws of the only two summands that have x_i, and "
        "each pair contributes a positive number (proved in _problem.py). Where the "
        "two are opposed and large beside the noise, all pairs but those with n = m "
        "contribute 0 to rounding, which leaves rho = 1/2 with mini-batch 1 and a "
        "little more with 2: too little for steps of this size, without a violation. "
        "The paper estimates the probabilities, and minima over coordinates of "
        "estimates fall well below 1/2 by chance alone",
    )
    minima = [0.5 + 0.5 * float(c.excess.min(axis=-1).mean()) for c in columns]
    levels = [_level(c) for c in columns]
    _say(
        results, "fig2_order", _falls(levels) and _falls([-m for m in minima]),
        f"mean of the minimum of rho {_join(minima, '.4f')}; f {_join(levels)}",
        "one of the two is not in order, see the number",
    )
    means = [0.5 + 0.5 * float(c.excess.mean()) for c in columns]
    ends, between = _problem.greatest_success(config.batches[-1], config.dimension)
    _say(
        results, "fig2_probabilities", means[-1] >= config.close,
        f"mean rho {_join(means, '.3f')}; with mini-batch {config.batches[-1]} at most "
        f"{ends:.3f} is possible for the first and last coordinate and {between:.3f} "
        "for the others",
        "they rise, but where no summand of a mini-batch has a coordinate there is "
        "only noise, so that rho is at most 1 - (1 - s/(d-1))^tau/2 with its s = 1 or "
        "2 summands; and near the valley the two are opposed",
    )


def _figure_6(results: Results, config: Config, columns: Any) -> None:
    # [columns, groups of ten repetitions]
    changes = np.array([
        [
            np.abs(np.diff(several[:, several.shape[1] // 2 :])).mean()
            for several in np.array_split(c.values, max(1, len(c.values) // 10))
        ]
        for c in columns
    ])
    ratios = changes[2:].max(axis=0) / changes[:2].min(axis=0)
    means = changes.mean(axis=1)
    _say(
        results, "fig6", max(means[2:]) <= config.mitigated * min(means[:2]),
        f"mean change {_join(means)}, greatest ratio {spread(list(ratios))} over "
        f"groups of ten repetitions; f {_join(_level(c) for c in columns)} in the end",
        "oscillations fall with each larger mini-batch, but from the second to the "
        "third not by this factor: a step has the same length however sure its signs "
        "are, and makes f change",
    )


def _figure_8(results: Results, config: Config, outcome: Any) -> None:
    columns = outcome.step_sizes
    longer = [float(np.mean(_runs.slopes(f[1]))) for f in outcome.sweep.values()]
    slopes = [_runs.slopes(c.values) for c in columns]
    start = columns[0].values[0, 0]
    levels = [_level(c) for c in columns]
    _say(
        results, "fig8_divergence", np.mean(slopes[0]) >= config.rises,
        f"slope {spread(slopes[0])}, f from {start:.4g} to {levels[0]:.3g}",
        "f rises, but more slowly than that. Figure 2 shows the very same setting as "
        f"an example of oscillation. With {config.sweep_steps[-1]:,} iterations, in "
        f"the sweep, the slope with the second mini-batch is {min(longer):.2f} to "
        f"{max(longer):.2f}",
    )
    worst = max(float(np.mean(s)) for s in slopes[1:3])
    coins = float((columns[0].excess < 0.05).mean())
    _say(
        results, "fig8_neighbourhood",
        worst < config.rises and _falls(levels[1:3])
        and max(levels[1:3]) <= start / config.falls,
        f"slopes {', '.join(spread(s) for s in slopes[1:3])}, f from {start:.4g} to "
        f"{_join(levels[1:3])}",
        "the smaller step ends lower, but f falls at first and then creeps up again: "
        "where the two summands of a coordinate are opposed and large beside the "
        "noise, the sign of mini-batch 2 is right with a probability of 1/2 + "
        f"1/(d-1)^2 only (2 rho - 1 < 0.05 in {100 * coins:.0f}% of coordinates with "
        "the largest step), and what is almost a free walk has no neighbourhood to "
        "stay in",
    )
    reached = [_first(c.values, start / config.falls) for c in columns[1:]]
    _say(
        results, "fig8_slower", _falls([-r for r in reached]) and _falls(levels[1:]),
        f"f first at f(x_0)/{config.falls:g} after {_join(reached)} iterations with "
        f"steps {_join(config.step_sizes[1:])}; at last {_join(levels[1:])}",
        "f never falls so far with one of them, or not in this order",
    )


def _first(values: np.ndarray, level: float) -> float:
    """Returns the median iteration at which f is first at most a level."""
    below = values <= level
    first = np.where(below.any(axis=1), below.argmax(axis=1), np.inf)
    return float(np.median(first))


def _theorems(results: Results, outcome: Any) -> None:
    for key, columns in (
        ("theorem1", [*outcome.batches, *outcome.step_sizes]),
        ("theorem2", outcome.lower_only),
    ):
        shares = [float(c.rho_norm.mean()) / c.bound for c in columns]
        number = f"at most {max(shares):.2g} of the bound"
        holds = max(shares) <= 1
        if key == "theorem2":
            rise = max(float(np.diff(c.values, axis=1).max()) for c in columns)
            number += f"; f changes by at most {rise:+.2g} in a step"
            number += f", and is {_join(_level(c) for c in columns)} in the end"
            holds = holds and rise <= 0
        _say(
            results, key, holds, number,
            "so there is a fault in the bound, in rho or in the runs",
        )


def _figure_4(results: Results, config: Config, voted: Any) -> None:
    # [step sizes, workers]
    means = np.log10(voted.values.mean(axis=2)).mean(axis=-1)
    odd, even = means[:, ::2], means[:, 1::2]
    _say(
        results, "fig4_more", all(_falls(row) for row in odd),
        f"with {_join(voted.workers[::2])} workers {_join(odd[0], '.2f')} (constant) "
        f"and {_join(odd[1], '.2f')} (decreasing)",
        "not from each number to the next, see the number",
    )
    ties = 100 * voted.ties[1::2]
    for i, key in enumerate(("fig4_pairs_constant", "fig4_pairs_decreasing")):
        pairs, steps = even[i] - odd[i], np.diff(odd[i])
        share = float(np.abs(pairs).mean() / np.abs(steps).mean())
        _say(
            results, key, share <= config.pair_share,
            f"{share:.2f} times; from 2l-1 to 2l {_join(pairs, '+.3f')}, between odd "
            f"numbers {_join(steps, '+.3f')}",
            "the expected sign is the same, and so is the rate with decreasing steps; "
            "but coordinates do not move by a tie "
            f"({_join(ties, '.0f')}% of votes of 2l workers), so that the mean square "
            "of a step, the second-order term of every bound, is smaller with 2l, and "
            "with it the level at which f stays with constant steps",
        )
    worst = float(np.abs(voted.deviations).max())
    _say(
        results, "expected_sign", worst <= config.errors,
        f"at most {worst:.2f} standard errors in {voted.deviations.size} differences",
        "a difference beyond chance would be a fault of the vote or of the draws",
    )

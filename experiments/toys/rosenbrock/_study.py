"""Runs the study of the Rosenbrock function and writes what came of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments._results import Results, progress, table
from experiments.toys.rosenbrock import _figures, _problem, _runs
from experiments.toys.rosenbrock._config import Config
from experiments.toys.rosenbrock._looks import least_estimates, looks
from experiments.toys.rosenbrock._runs import Setting
from experiments.toys.rosenbrock._verdicts import judge
from experiments.toys.rosenbrock._votes import sides, votes


class Column(NamedTuple):
    """One setting and its runs.

    Attributes:
      setting: what was run.
      values: of f, [repetitions, steps + 1].
      excess: 2 rho - 1, exactly, [repetitions, looks, d].
      estimates: of the minimum of rho, of the first repetition, [looks].
      rho_norm: of the gradient, [repetitions, looks].
      bound: of its mean, by Theorem 1 for a constant step size.
    """

    setting: Setting
    values: np.ndarray
    excess: np.ndarray
    estimates: np.ndarray
    rho_norm: np.ndarray
    bound: float


class Votes(NamedTuple):
    """Runs by majority vote.

    Attributes:
      workers: how many voted.
      values: of f, [2, workers, repetitions, steps + 1], of constant and decreasing
        step sizes.
      ties: the part of coordinates where the vote is even, by number of workers, at
        some points of a run.
      deviations: of expected votes of 2l workers from those of 2l-1, in standard
        errors, [points, pairs, d].
    """

    workers: list[int]
    values: np.ndarray
    ties: np.ndarray
    deviations: np.ndarray


class Outcome(NamedTuple):
    """All that was run, by part of the study."""

    batches: list[Column]
    decreasing: list[Column]
    step_sizes: list[Column]
    lower_only: list[Column]
    votes: Votes
    sweep: dict[tuple[str, float], np.ndarray]


def run(config: Config) -> Outcome:
    """Runs all figures and the sweep."""
    results = Results(config.results, "rosenbrock", config)
    usual = Setting(config.step_size, 0.0, 1, config.noise, config.start)
    batches = [usual._replace(batch=tau) for tau in config.batches]
    decreasing = [
        usual._replace(power=0.5, batch=tau) for tau in config.decreasing_batches
    ]
    sizes = [
        usual._replace(step_size=gamma, batch=config.step_sizes_batch)
        for gamma in config.step_sizes
    ]
    with progress(4, unit="part") as bar:
        every = _columns(config, [*batches, *decreasing, *sizes])
        bar.update()
        lower_only = _columns(config, batches, option=2)
        bar.update()
        voted = _votes(config, usual._replace(step_size=config.vote_step_size))
        bar.update()
        sweep = _sweep(config, usual)
        bar.update()
    first, second = len(batches), len(batches) + len(decreasing)
    outcome = Outcome(
        every[:first], every[first:second], every[second:], lower_only, voted, sweep
    )
    _record(results, outcome)
    _draw(results, config, outcome)
    judge(results, config, outcome)
    results.finish(_summary(config, outcome))
    return outcome


def _columns(
    config: Config, settings: Sequence[Setting], option: int = 1
) -> list[Column]:
    """Runs settings, all as one program, and looks at their points."""
    points = _runs.descents(
        settings, config.dimension, config.steps, config.repetitions, config.seed,
        option,
    )
    most = max(setting.batch for setting in settings)
    out = []
    for setting, x in zip(settings, points, strict=True):
        values = np.asarray(_runs.values(x))
        at = x[:, : -1 : config.every]
        excess, norm = looks(at, setting, most)
        estimates = least_estimates(at[0], setting, most, config.draws, config.seed)
        flat = x.reshape(-1, config.dimension)
        constants = _problem.smoothness(flat.min(axis=0), flat.max(axis=0))
        bound = (
            values[0, 0] / (setting.step_size * config.steps)
            + setting.step_size * constants.sum() / 2
        )
        out.append(Column(setting, values, excess, estimates, norm, float(bound)))
    return out


def _votes(config: Config, constant: Setting) -> Votes:
    """Runs both step sizes with 2l-1 and 2l workers for every l."""
    workers = list(itertools.chain(*((2 * n - 1, 2 * n) for n in config.pairs)))
    values = votes(
        [constant, constant._replace(power=0.5)], workers, config.dimension,
        config.steps, config.vote_repetitions, config.seed,
    )
    run = _runs.descents([constant], config.dimension, config.steps, 1, config.seed)
    at = np.linspace(0, config.steps, config.points).astype(int)
    ties, deviations = [], []
    for i, x in enumerate(run[0, 0, at]):
        drawn = sides(x, workers, config.noise, config.vote_draws, (config.seed, 4, i))
        ties.append((drawn == 0).mean(axis=(1, 2)))
        change = drawn[1::2] - drawn[::2]
        # Where no draw differs there is no error, and no difference.
        error = np.maximum(change.std(axis=1), 1e-6) / np.sqrt(config.vote_draws)
        deviations.append(change.mean(axis=1) / error)
    return Votes(workers, values, np.mean(ties, axis=0), np.array(deviations))


def _sweep(config: Config, usual: Setting) -> dict[tuple[str, float], np.ndarray]:
    """Returns f of Figure 2's runs, [batches, repetitions, steps + 1]."""
    cases = list(itertools.product(config.sweep_starts, config.sweep_noises))
    values = _runs.descents(
        [
            usual._replace(start=start, noise=noise, batch=tau)
            for start, noise in cases for tau in config.batches
        ],
        config.dimension, max(config.sweep_steps), config.sweep_repetitions,
        config.seed, points=False,
    )
    by_case = values.reshape(len(cases), len(config.batches), *values.shape[1:])
    return dict(zip(cases, by_case, strict=True))


def _record(results: Results, outcome: Outcome) -> None:
    """Writes a line for every run, and for every repetition what f it ended with."""

    def thin(values: np.ndarray) -> np.ndarray:
        return values[..., :: max(1, values.shape[-1] // 50)]

    for part in ("batches", "decreasing", "step_sizes", "lower_only"):
        for column in getattr(outcome, part):
            results.metric(
                part=part, **column.setting._asdict(),
                last_quarter=_runs.last_quarter(column.values),
                slopes=_runs.slopes(column.values),
                least_rho=0.5 + 0.5 * column.excess.min(axis=(1, 2)),
                mean_rho=0.5 + 0.5 * column.excess.mean(axis=(1, 2)),
                least_estimates=column.estimates, bound=column.bound,
                mean_rho_norm=column.rho_norm.mean(axis=1),
                mean_f=thin(column.values.mean(axis=0)),
            )
    for power, by_workers in zip((0.0, 0.5), outcome.votes.values, strict=True):
        for workers, values in zip(outcome.votes.workers, by_workers, strict=True):
            results.metric(
                part="votes", workers=workers, power=power,
                last_quarter=_runs.last_quarter(values),
                mean_f=thin(values.mean(axis=0)),
            )
    for (start, noise), by_batch in outcome.sweep.items():
        results.metric(
            part="sweep", start=start, noise=noise,
            last_quarter=_runs.last_quarter(by_batch),
            slopes=[_runs.slopes(values) for values in by_batch],
        )


def _draw(results: Results, config: Config, outcome: Outcome) -> None:
    size = f"{config.step_size:g}"
    results.figure(_figures.columns_of(
        f"constant step size {size}", outcome.batches,
        [f"mini-batch {tau}" for tau in config.batches], config, outcome.lower_only,
    ))
    results.figure(_figures.columns_of(
        f"step size {size}/√(k+1)", outcome.decreasing,
        [f"mini-batch {tau}" for tau in config.decreasing_batches], config,
    ), "decreasing")
    results.figure(_figures.columns_of(
        f"mini-batch {config.step_sizes_batch}", outcome.step_sizes,
        [f"constant step size {g:g}" for g in config.step_sizes], config,
    ), "step_sizes")
    results.figure(_figures.workers_of(outcome.votes, config), "workers")


def _summary(config: Config, outcome: Outcome) -> str:
    """Returns what was run, the sweep and what it says."""
    rows, orders, rising, steady = [], [], [], []
    for steps, (case, values) in itertools.product(
        config.sweep_steps, outcome.sweep.items()
    ):
        runs = values[:, :, : steps + 1]
        level = np.median(_runs.last_quarter(runs), axis=1)
        slope = [float(np.mean(_runs.slopes(batch))) for batch in runs]
        orders.append(bool(np.all(np.diff(level) < 0)))
        rising.append(slope[0] >= config.rises)
        steady.append(abs(slope[1]) < config.rises)
        if steps == config.sweep_steps[-1]:
            rows.append([case[0], f"{case[1]:g}"] + [
                f"{a:.3g} ({b:+.2f})" for a, b in zip(level, slope, strict=True)
            ])
    taus = [f"tau={tau}" for tau in config.batches]
    horizons = ", ".join(f"{n:,}" for n in config.sweep_steps)
    return (
        f"signSGD on the Rosenbrock function, d={config.dimension}, from the same "
        f"initial point in all repetitions: {config.repetitions} of {config.steps:,} "
        f"iterations, {config.vote_repetitions} where workers vote (in the paper 10 "
        "everywhere). As printed, the stochastic gradient is that of one of the d-1 "
        "summands, drawn uniformly, plus noise N(0, nu^2 I). It is biased: its mean is "
        "grad f/(d-1), and signs do not see the factor. A mini-batch is the mean of "
        "tau draws of both. Unstated in the paper and chosen here: the initial point "
        f"({config.start!r}; the standard one is (-1.2, 1, -1.2, ...)), "
        f"nu={config.noise:g} and the number of iterations. The captions name no "
        "option: Option 1 is run, and Option 2 beside it for Figure 2. Success "
        "probabilities are exact; beside them stands the minimum of estimates from "
        f"{config.draws} draws. Beside the minimum f has a local one near (-1, 1, "
        "..., 1), of about 4 for d=10.\n\n"
        f"The sweep, constant step size {config.step_size:g}: median of f over the "
        f"last quarter of {config.sweep_steps[-1]:,} iterations and the slope of log f "
        f"against log k, {config.sweep_repetitions} repetitions, the random numbers of "
        "all settings the same:\n\n"
        + table(["start", "nu", *taus], rows)
        + f"\n\nOf {len(orders)} settings (these, at {horizons} iterations) f falls "
        f"from each mini-batch to the next in {sum(orders)}, diverges (slope at least "
        f"{config.rises:g}) with the smallest in {sum(rising)}, and with the second "
        f"neither rises nor falls so fast in {sum(steady)}."
    )

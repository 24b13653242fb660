"""Runs the study of majority vote and writes what came of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

import ef_optax
from experiments import data
from experiments._results import Results, count_text, progress, spread, table
from experiments._workers import worker_devices
from experiments.models import MLP
from experiments.training import Classification
from experiments.voting import _figures
from experiments.voting._config import Config
from experiments.voting._lab import Curve, Lab, Noise
from experiments.voting._methods import METHODS, wire
from experiments.voting._tuning import tune
from experiments.voting._verdicts import judge, reached

# Whose bytes are read for few workers too.
SCALED = ("sign_sgd_packed", "ef_sign_sgd", "ef_two_way")


class Outcome(NamedTuple):
    """All that was run.

    Attributes:
      votes: curves of signSGD, by number of workers, one for each seed.
      methods: curves with the most workers, by method.
      attacks: last test accuracies by method and factor, [adversaries, seeds].
      noise: at some points of a run, by the number of steps before.
      larger: at the last of them, of larger batches.
      wires: what a step sends, by method and number of workers.
    """

    votes: dict[int, list[Curve]]
    methods: dict[str, list[Curve]]
    attacks: dict[tuple[str, float], np.ndarray]
    noise: dict[int, Noise]
    larger: Noise
    wires: dict[tuple[str, int], ef_optax.WireReport]


def run(config: Config) -> Any:
    """Runs the study, or tunes; returns what came of it."""
    worker_devices(config.workers[-1])
    loaded = data.load(config.data, config.data_dir, config.split_seed)
    if config.tune:
        loaded = data.hold_out(loaded, config.validation, config.split_seed)
    task = Classification(MLP(config.widths), data.standardize(loaded))
    lab = Lab(task, config.batch_size, config.workers[-1], config.sample)
    name = "majority_vote" + "_mnist" * (config.data == "mnist")
    if config.tune:
        return tune(config, lab, name + "_tune")
    results = Results(config.results, name, config, study="majority_vote")
    outcome = _run(config, lab, results)
    results.figure(_figures.overview(outcome, config))
    results.figure(_figures.noise(outcome, config), "noise")
    judge(results, config, outcome)
    results.finish(_summary(config, task, outcome))
    return outcome


def _run(config: Config, lab: Lab, results: Results) -> Outcome:
    most, looks = config.workers[-1], config.steps // config.every
    attacked = [
        (name, factor) for name in config.methods for factor in METHODS[name].attacked
    ]
    trainings = len(config.seeds) * (
        len(config.workers) - 1 + len(config.methods)
        + len(attacked) * (len(config.adversaries) - 1)
    )
    with progress(trainings, unit="training") as bar:

        def curves(name: str, workers: int, rate: float, **against: Any) -> list[Curve]:
            out = []
            for seed in config.seeds:
                bar.set_description(f"{name}, {workers} workers")
                curve = lab.train(
                    name, workers, rate, seed, looks, config.every, **against
                )
                results.metric(
                    method=name, workers=workers, learning_rate=rate, seed=seed,
                    **against, train_loss=curve.train_loss,
                    test_accuracy=curve.test_accuracy,
                )
                out.append(curve)
                bar.update()
            return out

        methods = {
            name: curves(name, most, config.learning_rates[name])
            for name in config.methods
        }
        votes = {
            n: curves("sign_sgd", n, config.vote_rates[str(n)])
            for n in config.workers[:-1]
        }
        # The rates are the same unless the user gave two.
        same = config.vote_rates[str(most)] == config.learning_rates["sign_sgd"]
        votes[most] = methods["sign_sgd"] if same else curves(
            "sign_sgd", most, config.vote_rates[str(most)]
        )
        attacks = {}
        for name, factor in attacked:
            by_count = [methods[name]] + [
                curves(name, most, config.learning_rates[name], adversaries=count,
                       factor=factor)
                for count in config.adversaries[1:]
            ]
            attacks[name, factor] = np.array([
                [curve.test_accuracy[-1] for curve in several] for several in by_count
            ])
        noise, larger = _noise(config, lab, votes[1][0], results)
    pairs = dict.fromkeys([
        *((name, most) for name in config.methods),
        *((name, config.workers[1]) for name in config.methods if name in SCALED),
    ])
    params = lab.task.init(0)
    wires = {(name, workers): wire(name, workers, params) for name, workers in pairs}
    for (name, workers), report in wires.items():
        results.metric(
            method=name, workers=workers, bytes_sent=report.bytes_sent,
            bits_per_parameter=report.bits_per_parameter,
        )
    return Outcome(votes, methods, attacks, noise, larger, wires)


def _noise(
    config: Config, lab: Lab, curve: Curve, results: Results
) -> tuple[dict[int, Noise], Noise]:
    """Measures noise at some points of a run, evenly apart, and at the last again."""
    looks = len(curve.train_loss)
    at = np.linspace(0, looks - 1, config.points).astype(int).tolist()
    seed = config.seeds[0] + 1000
    out = []
    for i, times in [*((i, 1) for i in at), (at[-1], config.larger)]:
        params = jax.tree.map(lambda leaf, i=i: leaf[i], curve.params)
        seen = lab.noise(params, config.workers, config.draws, seed, times)
        steps = (i + 1) * config.every
        weights = np.abs(seen.gradient)
        results.metric(
            after=steps, batch_size=times * config.batch_size, workers=config.workers,
            gradient=weights.sum(), deviation=seen.deviation.sum(),
            wrong=(seen.wrong * weights).sum(axis=1),
        )
        out.append((steps, seen))
    return dict(out[:-1]), out[-1][1]


def _summary(config: Config, task: Classification, outcome: Outcome) -> str:
    """Returns what was run, and the tables."""
    most, seeds = config.workers[-1], count_text(len(config.seeds), "seed")
    level, needed = reached(config, outcome) if "sgd" in config.methods else (
        float("nan"), dict.fromkeys(config.methods, float("inf"))
    )
    by_workers = [
        [str(n), f"{config.vote_rates[str(n)]:g}",
         spread([c.train_loss[-1] for c in curves], 4),
         spread([c.test_accuracy[-1] for c in curves])]
        for n, curves in outcome.votes.items()
    ]
    labels = {
        (name, factor): f"{METHODS[name].label}, -{factor:g} g"
        for name, factor in outcome.attacks
    }
    attacks = [
        [labels[key], *(spread(row, 1) for row in accuracies)]
        for key, accuracies in outcome.attacks.items()
    ]
    methods = []
    for name, curves in outcome.methods.items():
        report = outcome.wires[name, most]
        sent = report.bytes_sent * needed[name] / 1e6
        bits = f"{report.bits_per_parameter:.3f}"
        methods.append([
            METHODS[name].label, f"{config.learning_rates[name]:g}",
            spread([c.train_loss[-1] for c in curves], 4),
            spread([c.test_accuracy[-1] for c in curves]), bits, bits,
            f"{report.bytes_sent * config.steps / 1e6:.2f}",
            f"{sent:.2f}" if np.isfinite(sent) else "not reached",
        ])
    parts = ", ".join(f"{100 * n / most:.0f}%" for n in config.adversaries)
    return (
        f"{config.data}: {len(task.data.x_train)} training and "
        f"{len(task.data.x_test)} test examples; {task.parameters} parameters; "
        f"{config.batch_size} examples a step of every worker, drawn from all; "
        f"{config.steps} steps of a constant learning rate, the best of a grid on "
        f"{config.validation:.0%} of the training data of the digits for each row of "
        f"the tables{' (not of MNIST, unless given)' * (config.data == 'mnist')} "
        f"(`--tune`), {seeds}. Workers are simulated in one "
        "device by vmap; bytes are read off programs for as many devices.\n\n"
        "signSGD by majority vote, by number of workers:\n\n"
        + table(["workers", "rate", "train loss", "test acc. %"], by_workers)
        + f"\n\nTest accuracy in % where so many of {most} workers ({parts}) send a "
        "multiple of the opposite of their gradient g, with the rate tuned without "
        "them; guessing reaches 10%:\n\n"
        + table(["adversaries", *map(str, config.adversaries)], attacks)
        + f"\n\nSeven methods with {most} workers. Bits a parameter and step, that "
        "each worker sends to others and receives from them, which is the same in "
        "every collective here (a ring all-reduce of n bytes sends 2(M-1)/M n, an "
        "all-gather (M-1) n, an all-to-all (M-1)/M n); MB sent in all, and until mean "
        f"test accuracy is first at least {level:.2f}%, SGD's last less "
        f"{config.tolerance:g}:\n\n"
        + table(["method", "rate", "train loss", "test acc. %", "bits sent", "received",
                 "MB", "MB to level"], methods)
        + "\n\nThe adversaries' claim is that of a repetition code; by name it is in "
        "the sequel of 2019, which two of the papers cite and this project does not "
        "have. Krum and the other defences of later papers are not here."
    )

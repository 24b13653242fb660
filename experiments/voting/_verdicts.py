"""Which claims on majority vote hold, and why if they do not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from experiments._results import Results, spread
from experiments.voting._config import Config


def judge(results: Results, config: Config, outcome: Any) -> None:
    """Records the verdicts of all claims."""
    _workers(results, outcome)
    _noise(results, config, outcome)
    _attacks(results, config, outcome)
    for needed, keys, say in (
        (("sgd", "sign_sgd_packed"), ("table1",), _table_1),
        (("sign_sgd_packed", "ef_sign_sgd", "ef_two_way"), ("both_ways",), _both_ways),
        (("ef_sign_sgd",), ("message", "factor_64"), _message),
        (("sgd", "sign_sgd_packed", "signum_packed", "ef_sign_sgd", "ef_two_way"),
         ("bits_per_accuracy",), _bits_per_accuracy),
        (("sgd", "scaled_sign", "ef_sign_sgd", "ef_two_way"), ("ef_matches_sgd",),
         _ef_matches_sgd),
    ):
        lacking = [name for name in needed if name not in config.methods]
        if not lacking:
            say(results, config, outcome)
        for key in keys if lacking else ():
            results.verdict(key, False, "", f"{', '.join(lacking)} did not run")


def reached(config: Config, outcome: Any) -> tuple[float, dict[str, float]]:
    """Returns SGD's last mean test accuracy less the tolerance, and who is there when.

    Returns:
      The accuracy, and after how many steps mean accuracy of each method is first at
      least that, infinite if never.
    """
    means = {
        name: np.mean([c.test_accuracy for c in curves], axis=0)
        for name, curves in outcome.methods.items()
    }
    level = float(means["sgd"][-1]) - config.tolerance
    steps = {}
    for name, mean in means.items():
        there = np.flatnonzero(mean >= level)
        steps[name] = config.every * (there[0] + 1.0) if len(there) else math.inf
    return level, steps


def _say(results: Results, key: str, holds: Any, number: str, why: str) -> None:
    """Records a verdict; `why` is of one that does not hold."""
    results.verdict(key, holds, number, "" if holds else why)


def _join(numbers: Iterable[float], form: str = ".3g") -> str:
    return ", ".join(format(n, form) for n in numbers)


def _workers(results: Results, outcome: Any) -> None:
    losses = {n: [c.train_loss[-1] for c in v] for n, v in outcome.votes.items()}
    means = [float(np.mean(v)) for v in losses.values()]
    number = "; ".join(f"{n}: {spread(v, 4)}" for n, v in losses.items())
    _say(
        results, "theorem2_a", max(means[1:]) <= means[0], f"training loss {number}",
        "a constant learning rate tuned for accuracy on the validation part is not the "
        "best for training loss, see the table for accuracies",
    )
    _say(
        results, "theorem2_b", bool(np.all(np.diff(means) < 0)),
        f"training loss {number}",
        "not from each number to the next: differences are as large as between seeds, "
        "or the rates tuned for accuracy are too coarse to compare losses",
    )


def _noise(results: Results, config: Config, outcome: Any) -> None:
    wrong, bounds, leaning = [], [], []
    for seen in outcome.noise.values():
        weights = np.abs(seen.gradient) / np.abs(seen.gradient).sum()
        wrong.append((seen.wrong * weights).sum(axis=1))
        sigma = seen.deviation.sum() / np.abs(seen.gradient).sum()
        bounds.append(sigma / np.sqrt(config.workers))
        leaning.append(_leaning(seen, config))
    shares = np.array(wrong) / np.array(bounds)
    last = f"{_join(config.workers)} workers {_join(wrong[-1])}"
    _say(
        results, "theorem2_proof", shares.max() <= 1,
        f"at most {shares.max():.2g} of the bound; parts of |g|_1 at the last point, "
        f"with {last}",
        "the noise of these batches is not unimodal and symmetric",
    )
    _say(
        results, "repetition_code", bool(np.all(np.diff(wrong, axis=1) < 0)),
        f"at the last point with {last}",
        "not from each number to the next at every point: chance, or signs that lean "
        "the wrong way",
    )
    _say(
        results, "remark_3", max(leaning) <= config.skewed,
        f"{_join(leaning)} of |g|_1 at the points, after {_join(outcome.noise)} steps; "
        f"at the last, with batches {config.larger} times larger, "
        f"{_leaning(outcome.larger, config):.3g}",
        f"it grows with training. The gradient of a batch of {config.batch_size} is "
        "skewed when most examples are recognised: the few that are not make up the "
        "mean, and most batches have none of them. As the papers say, larger batches "
        "cure it, see the number; a vote of more small ones does not",
    )


def _leaning(seen: Any, config: Config) -> float:
    """Returns the part of |g|_1 where signs lean the wrong way beyond chance."""
    size = np.abs(seen.gradient)
    error = 2 / math.sqrt(config.draws * config.workers[-1])
    return float(size[seen.lean < -error].sum() / size.sum())


def _attacks(results: Results, config: Config, outcome: Any) -> None:
    accuracies = outcome.attacks["sign_sgd", 1.0]
    lost = accuracies[0].mean() - accuracies[-1].mean()
    part = 100 * config.adversaries[-1] / config.workers[-1]
    others = "; ".join(
        f"{name}, -{factor:g} g: {spread(values[-1], 1)}%"
        for (name, factor), values in outcome.attacks.items() if name != "sign_sgd"
    )
    _say(
        results, "adversaries", lost <= config.robust,
        f"{spread(accuracies[0], 1)}% without, {spread(accuracies[-1], 1)}% with "
        f"{part:.0f}% of adversaries; others with as many: {others}",
        "fewer than half cannot turn a vote whose honest signs agree, but the honest "
        "ones of small batches do not: where a sign is right with probability rho it "
        "is after the attack with rho - (2 rho - 1) times the part of adversaries, "
        "which is closer to 1/2, and training slows down",
    )


def _table_1(results: Results, config: Config, outcome: Any) -> None:
    most = config.workers[-1]
    sgd, vote = (outcome.wires[n, most].bytes_sent for n in ("sgd", "sign_sgd_packed"))
    _say(
        results, "table1", abs(sgd / vote / 32 - 1) <= config.overhead,
        f"{sgd:,.0f} and {vote:,.0f} bytes, {sgd / vote:.2f} times",
        "small leaves and flags take a larger part of so small a message",
    )


def _both_ways(results: Results, config: Config, outcome: Any) -> None:
    few, most = config.workers[1], config.workers[-1]
    bits = {
        name: [outcome.wires[name, n].bits_per_parameter for n in (few, most)]
        for name in ("sign_sgd_packed", "ef_sign_sgd", "ef_two_way")
    }
    _say(
        results, "both_ways",
        max(bits["sign_sgd_packed"]) <= 2 * (1 + config.overhead),
        f"with {few} and {most} workers {_join(bits['sign_sgd_packed'])} bits; "
        f"EF-signSGD gathered {_join(bits['ef_sign_sgd'])}, two-way "
        f"{_join(bits['ef_two_way'])}",
        "small leaves and flags take a larger part of so small a message",
    )


def _message(results: Results, config: Config, outcome: Any) -> None:
    report = outcome.wires["ef_sign_sgd", config.workers[-1]]
    leaves = jax.tree.leaves(outcome.votes[1][0].params)
    sizes = [leaf[0].size for leaf in leaves]  # the first axis is that of looks
    formula = sum(sizes) + 32 * len(sizes)
    message = 8 * sum(c.size for c in report.collectives)
    _say(
        results, "message", message <= formula * (1 + config.overhead),
        f"{message:,} bits, and {formula:,} by the formula",
        "leaves whose bits do not fill a byte, and a flag, weigh more in a small "
        "network",
    )
    factor = 32 * sum(sizes) / message
    _say(
        results, "factor_64", factor >= 64, f"{factor:.1f} times",
        "one bit stands for a number of 32; a factor of 64 presumes gradients in "
        "float64, which networks do not have, or counts both ways against one",
    )


def _bits_per_accuracy(results: Results, config: Config, outcome: Any) -> None:
    level, steps = reached(config, outcome)
    most = config.workers[-1]
    sent = {n: steps[n] * outcome.wires[n, most].bytes_sent for n in steps}
    shares = [sent[n] / sent["sgd"] for n in ("sign_sgd_packed", "signum_packed")]
    names = ("sign_sgd_packed", "signum_packed", "ef_sign_sgd", "ef_two_way")
    losses = [
        float(np.mean([c.train_loss[-1] for c in outcome.methods[name]]))
        for name in ("sgd", "sign_sgd_packed", "signum_packed")
    ]
    _say(
        results, "bits_per_accuracy", max(shares) <= config.share,
        f"of SGD's {sent['sgd'] / 1e6:.1f} MB to reach {level:.2f}%: "
        + ", ".join(f"{name} {sent[name] / sent['sgd']:.3f}" for name in names)
        + " (inf: never)",
        "signSGD moves every coordinate by as much in each step, however small its "
        "gradient, and with a constant learning rate stays at a training loss of "
        f"{losses[1]:.2g}, where SGD comes to {losses[0]:.2g}. Signum, whose momentum "
        f"averages, comes to {losses[2]:.2g}",
    )


def _ef_matches_sgd(results: Results, config: Config, outcome: Any) -> None:
    last = {
        name: [c.test_accuracy[-1] for c in curves]
        for name, curves in outcome.methods.items()
    }
    mean = {name: float(np.mean(values)) for name, values in last.items()}
    ours = [mean["ef_sign_sgd"], mean["ef_two_way"]]
    names = ("sgd", "ef_sign_sgd", "ef_two_way", "scaled_sign", "sign_sgd")
    _say(
        results, "ef_matches_sgd",
        min(ours) >= max(mean["sgd"] - config.tolerance, mean["scaled_sign"]),
        "; ".join(f"{n} {spread(last[n])}%" for n in names),
        "EF is further below SGD, or scaled sign is as good without it: the network is "
        "small and its gradients dense, so that little is lost to feed back",
    )

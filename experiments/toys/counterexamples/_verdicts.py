"""The verdicts on the claims, and the tables of the summary."""

from __future__ import annotations

import numpy as np

from experiments._results import Results, spread, table
from experiments.toys.counterexamples import _runs
from experiments.toys.counterexamples._config import Config
from experiments.toys.counterexamples._measured import (
    LINEAR,
    Measured,
    best,
    best_distance,
    mean_distance,
    on_line,
    stuck,
)
from experiments.toys.counterexamples._runs import SEARCHES, Points

PROOF = (
    "This contradicts a proof of a few lines: either rounding beyond the tolerance, or "
    "settings too small to show it; see metrics.jsonl."
)


def _otherwise(holds: bool, why: str = "") -> str:
    """Returns what there is to say of a claim that was proven."""
    return why if holds else PROOF


def give(results: Results, config: Config, m: Measured) -> None:
    """Gives the verdict on every claim."""
    _example_1(results, config, m)
    line = m.figure_1
    holds = line.signs == line.points and line.error <= config.tolerance
    results.verdict(
        "figure_1", holds,
        f"{line.signs} of {line.points} signs; the error differs from ε (1, 1) by "
        f"at most {line.error:.1g}", _otherwise(holds),
    )
    escaped = ~on_line(m.zeros, config)
    zero = _runs.ZEROS.index("0")
    first, others = escaped[:, :, 0, zero], escaped[:, :, 1:, zero]
    caveat = (
        "It needs a subgradient with sign(0) = ±1. With sign(0) = 0 the direction at "
        f"(1, 1) is (1, 1), and signSGD leaves the line in {_share(first)}; from "
        f"(1.5, 0.5) and (1.3, 0.7) in {_share(others)}, where x1 = x2 exactly at some "
        "step."
    )
    for key, runs in (("example_2", m.on_2), ("example_3", m.on_3)):
        all_of = [runs[name] for name in ("signSGD", *SEARCHES)]
        holds = all(stuck(points, config) for points in all_of)
        why = caveat if key == "example_2" else ""
        results.verdict(key, holds, _drift(*all_of), _otherwise(holds, why))
    _feedback(results, config, m)
    _momentum(results, config, m)
    zero_ties = [p for (_, tie), p in m.votes.items() if tie == "zero"]
    broken = {
        parity: np.concatenate([
            ~on_line(p, config) for (workers, tie), p in m.votes.items()
            if tie != "zero" and workers % 2 == parity
        ] or [np.zeros((0, 0), bool)])
        for parity in (0, 1)
    }
    holds = all(stuck(p, config) for p in zero_ties)
    results.verdict(
        "workers", holds, _drift(*zero_ties),
        _otherwise(holds, (
            "It hangs on the tie. If a tie gives +1 or a random sign, an even number "
            f"of workers leaves the line in {_share(broken[0])}; an odd number in "
            f"{_share(broken[1])}, namely where the gradient of a term is exactly 0: "
            "the workers that drew it abstain, and the others may split evenly."
        )),
    )
    scaled = (m.on_2["scaled signSGD"], m.on_3["scaled signSGD"])
    holds = all(stuck(p, config) for p in scaled)
    results.verdict(
        "compressors", holds, _drift(*scaled),
        _otherwise(holds, (
            "Not to all biased compressors: top-1 without feedback leaves the line of "
            f"counterexample 2 and comes down to {best(m.on_2['top-1']).max():.1g} "
            "f(x_0), with the best schedule and the worst ε. On counterexample 1 "
            "scaled signSGD is SGD (d = 1)."
        )),
    )
    signs = [away for (_, name), away in m.theorem_1.items() if name == "signSGD"]
    across = max(away.across.max() for away in signs)
    above = min((a.distance.min(-1) - a.floor).min() for a in signs)
    holds = across <= config.tolerance and above >= -config.tolerance
    results.verdict(
        "theorem_1", holds,
        f"the orthogonal component is at most {across:.1g}, and no point is nearer to "
        "x* than the line; signSGD ends at "
        + ", ".join(
            f"{spread(a.distance[..., -1].ravel())} of the first distance (d = {d})"
            for d, a in zip(config.dimensions, signs, strict=True)
        ), _otherwise(holds),
    )
    holds = stuck(m.anywhere, config)
    results.verdict("line", holds, _drift(m.anywhere), _otherwise(holds))
    inside = max(c.most for c in m.cones.values())
    outside = min(c.outside for c in m.cones.values())
    nearer = min(c.nearer for c in m.cones.values())
    holds = inside <= 0.5 and outside == 1 and nearer == 1
    results.verdict(
        "cone", holds,
        f"ρ at most {inside:g} in the cone, at least {outside:g} outside; "
        f"{nearer:.0%} of the steps lead nearer. The cone has "
        + ", ".join(f"{c.inside:.0%} of the square at ε = {e:g}"
                    for e, c in m.cones.items()), _otherwise(holds),
    )


def _example_1(results: Results, config: Config, m: Measured) -> None:
    slopes = {name: run["slope"] for name, run in m.example_1.items()}
    half = config.steps // 2
    means = {  # of f, by step size
        name: run["path"][:, :, half:].mean(-1) / 4 for name, run in m.example_1.items()
    }
    close = all(
        abs(slopes[name].mean() - expected) <= config.drift_tolerance
        for name, expected in (("SGD", -1 / 16), ("signSGD", 1 / 8))
    )
    sides = (means["signSGD"].mean(1) > 0).all() and all(
        (means[name].mean(1) < 0).all() for name in ("SGD", "EF-signSGD")
    )
    same = max(
        abs(m.example_1[name]["path"] - m.example_1["SGD"]["path"]).max()
        for name in ("scaled signSGD", "EF-signSGD")
    )
    rest = (
        "In one dimension the scaled sign is the identity: scaled signSGD and "
        f"EF-signSGD differ from SGD by at most {same:.1g}. Momentum averages the "
        f"noise: Signum (β = {config.beta:g}) moves by {spread(slopes['Signum'], 4)} γ."
    )
    results.verdict(
        "example_1", close and sides,
        f"SGD {spread(slopes['SGD'], 4)} γ, signSGD {spread(slopes['signSGD'], 4)} γ a "
        "step; f ends at "
        + ", ".join(f"{means[n].mean():.3f} ({n})" for n in ("SGD", "signSGD")),
        rest if close and sides else f"Too few or too small steps to get far. {rest}",
    )


def _feedback(results: Results, config: Config, m: Measured) -> None:
    reached = {
        name: max(
            best(m.on_2[name]).max(), best(m.on_3[name]).max(),
            *(best_distance(m.theorem_1[d, name]) for d in config.dimensions),
        )
        for name in ("SGD", "EF-signSGD")
    }
    results.verdict(
        "feedback", max(reached.values()) <= config.converged,
        "at worst " + ", ".join(f"{v:.2g} ({k})" for k, v in reached.items())
        + " of the value at the start",
        "" if max(reached.values()) <= config.converged else
        f"Not within {config.steps} steps of the schedules tried.",
    )


def _momentum(results: Results, config: Config, m: Measured) -> None:
    shares = [on_line(points, config) for points in m.momentum[config.beta]]
    limit = (1 - config.beta) / (1 + config.beta)
    fixed = [i for i, s in enumerate(config.schedules) if s.replace(".", "").isdigit()]
    small = [i for i, e in enumerate(config.momentum_epsilons) if e < limit]
    kept = shares[0][np.ix_(small, fixed)]
    results.verdict(
        "momentum", all(share.all() for share in shares),
        f"on the line stay {_share(shares[0])} on counterexample 2 and "
        f"{_share(shares[1])} on counterexample 3",
        "Momentum averages the gradients, a little as error feedback does: on either "
        "side of x1 = x2 they are (1+ε, -1+ε) and (-1+ε, 1+ε), whose mean is ε (1, 1), "
        "and its sign leads to x*. With a fixed step size signs alternate on "
        "counterexample 2, and m keeps the sign ±(1, -1) if and only if "
        f"ε < (1-β)/(1+β) = {limit:.3g}: of such runs {_share(kept)} stay. So the "
        "claim holds there for ε small enough for a given β; with decreasing or random "
        "step sizes, and with stochastic gradients, few runs of this length stay.",
    )


def _share(which: np.ndarray) -> str:
    return f"{int(which.sum())} of {which.size} runs"


def _drift(*all_of: Points) -> str:
    drift = max(p.drift.max() for p in all_of)
    least = min(p.least.min() for p in all_of)
    return (
        f"in {sum(p.drift.size for p in all_of)} runs x1 + x2 changes by at most "
        f"{drift:.1g}, and f is never below {least:.6f} f(1, 1)"
    )


def tables(config: Config, m: Measured) -> str:
    """Returns the summary's tables."""
    rows = []
    for name in m.on_2:
        row = [name]
        for runs in (m.on_2, m.on_3):
            if name in runs:
                row += [
                    f"{on_line(runs[name], config).mean():.0%}",
                    f"{best(runs[name]).max():.1g}",
                ]
            else:
                row += ["", ""]
        rows.append(row)
    methods = table(
        ["", "CE2: on the line", "f / f(1, 1)", "CE3: on the line", "f / f(1, 1)"], rows
    )
    momentum = table(
        ["Signum, on the line", *(f"ε = {e:g}" for e in config.momentum_epsilons)],
        [
            [f"CE{number}, β = {beta:g}",
             *(f"{x:.0%}" for x in on_line(points, config).mean((1, 2)))]
            for beta, both in m.momentum.items()
            for number, points in zip((2, 3), both, strict=True)
        ],
    )
    votes = table(
        ["on the line, if a tie gives", "0", "+1", "a random sign"],
        [
            [f"M = {workers}",
             *(f"{on_line(m.votes[workers, tie], config).mean():.0%}"
               for tie in _runs.TIES)]
            for workers in config.workers
        ],
    )
    zeros = table(
        ["on the line, if sign(0) is", *_runs.ZEROS],
        [
            [f"from {start}",
             *(f"{x:.0%}" for x in on_line(m.zeros, config)[:, :, i].mean((0, 1)))]
            for i, start in enumerate(_runs.STARTS)
        ],
    )
    linear = table(
        ["distance to x* / at the start", *(f"d = {d}" for d in config.dimensions)],
        [
            [name, *(f"{mean_distance(m.theorem_1[d, name]):.2g}"
                     for d in config.dimensions)]
            for name in LINEAR
        ] + [
            ["the line x_0 + R s",
             *(f"{m.theorem_1[d, 'signSGD'].floor.mean():.2g}"
               for d in config.dimensions)]
        ],
    )
    return "\n\n".join((
        "Counterexamples 2 and 3: the share of all runs (ε, schedule, repeat) on the "
        "line x1 + x2 = 2 to the end, and the last f under the best schedule (worst ε "
        "and repeat).", methods,
        "Momentum: the share of runs on the line, of all schedules and repeats. The "
        "limit (1-β)/(1+β) for fixed steps on counterexample 2 is "
        + ", ".join(f"{(1 - b) / (1 + b):.3g} (β = {b:g})" for b in config.betas) + ".",
        momentum,
        "Majority vote of batch-1 workers on counterexample 3 "
        f"(ε = {config.epsilon:g}, {config.vote_steps} steps).", votes,
        "signSGD on counterexample 2, by the sign(0) inside its subgradient.", zeros,
        "Theorem I: the last distance under the best schedule, mean of losses and "
        "repeats.",
        linear,
    ))

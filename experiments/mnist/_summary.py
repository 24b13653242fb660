"""What was run and found, in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments._results import spread, table
from experiments.mnist._config import METHODS, Config
from experiments.mnist._verdicts import ends, shown

if TYPE_CHECKING:
    from experiments.mnist._study import Found


def text(config: Config, found: Found) -> str:
    """Returns the summary."""
    sizes = ", ".join(
        f"{width} ({count} parameters)" for width, count in found.parameters.items()
    )
    return "\n\n".join([
        f"{config.data}: {found.examples[0]} training and {found.examples[1]} test "
        f"examples; one hidden layer of {sizes} rectified linear units. The paper "
        "states neither the width nor the budgets nor the batch sizes of its Figure 5: "
        "these were chosen. A step sends one bit a coordinate with signSGD and 32 bits "
        "with SGD, one way; the bit does not count that an exact 0 has the sign 0"
        + (" (it has +1 here)" if config.zero == "positive" else "")
        + ". Inputs have mean 0 and deviation 1; neither momentum nor weight decay.",
        "Learning rates, for each setting and budget on its own: the paper's coarse "
        f"grid, then {', '.join(f'{f:g}' for f in config.fine)} times its best, by "
        f"accuracy on {config.validation:.0%} of the training examples with other "
        f"seeds ({', '.join(map(str, config.tune_seeds))}); then "
        f"{len(config.seeds)} repetitions on all training examples. Accuracies in % "
        f"are means over {config.looks} looks in the last tenth of a run, ± standard "
        f"deviation over repetitions; of training examples the first "
        f"{min(config.train_sample, found.examples[0])} were looked at.",
        table(
            ["batches", "width", "batch", "MB", "method", "steps", "epochs", "rate",
             "train", "test"],
            _rows(config, found),
        ),
        _catching_up(config, found),
        _gradients(config, found),
        _sweep(config, found),
    ])


def _rows(config: Config, found: Found) -> list[list[str]]:
    rows = []
    for cell in found.tuned:
        for budget in config.budgets_of(cell):
            runs = found.of(cell, budget)
            steps = int(runs[0].steps[-1])
            rows.append([
                cell.batches, str(cell.width), str(cell.batch_size), f"{budget:g}",
                cell.method, str(steps),
                f"{steps * cell.batch_size / found.examples[0]:.2g}",
                f"{runs[0].rate:g}",
                *(shown(ends(runs, name, config))
                  for name in ("train_accuracy", "test_accuracy")),
            ])
    return rows


def _catching_up(config: Config, found: Found) -> str:
    """Says after how many megabytes signSGD reaches what SGD reaches in the end."""
    parts = []
    for budget in config.budgets_of(config.figure_3("SGD")):
        ours, theirs = (
            found.of(config.figure_3(method), budget) for method in METHODS
        )
        goal = ends(theirs, "test_accuracy", config).mean()
        curve = np.mean([one.test_accuracy for one in ours], axis=0)
        reached = np.flatnonzero(curve >= goal)
        when = f"{ours[0].megabytes[reached[0]]:.2g}" if len(reached) else "more"
        parts.append(f"{when} MB ({goal:.1f}%, SGD within {budget:g} MB)")
    return (
        "signSGD's mean test accuracy on split batches is where SGD's ends after "
        + ", ".join(parts) + "."
    )


def _gradients(config: Config, found: Found) -> str:
    """Returns the table of the shapes of the gradients' distributions."""
    rows = []
    for batches in ("split", "standard"):
        for epoch in config.epochs:
            shapes = [
                one.shape for one in found.sampled
                if (one.epoch, one.batches) == (epoch, batches)
            ]
            numbers = [
                [np.median(s.bimodality[s.moving]) for s in shapes],
                [np.median(abs(s.skewness[s.moving])) for s in shapes],
                [np.median(s.separation[s.moving]) for s in shapes],
                [np.median(s.success[s.moving]) for s in shapes],
                [np.min(s.success[s.moving]) for s in shapes],
            ]
            rows.append([
                batches, str(epoch), *(
                    "" if np.isnan(n).any() else spread(n) for n in numbers
                ),
                spread([100 * (1 - s.moving.mean()) for s in shapes], 0),
            ])
    explained = (
        "Stochastic gradients of the biases along signSGD's run of "
        f"{config.long_budget:g} MB, {config.gradient_batches} batches each, medians "
        "over biases that move: Sarle's bimodality coefficient (1/3 normal, 5/9 "
        "uniform, 1 two points), absolute skewness, the distance of the means of the "
        "two parts of the digits in standard deviations (two equal normal densities "
        "have two modes above 2), and the success probability ρ, with the least of "
        "all biases; dead: biases whose gradient is always 0, in %."
    )
    header = ["batches", "before epoch", "bimodality", "skewness", "distance", "ρ",
              "least ρ", "dead"]
    return explained + "\n\n" + table(header, rows)


def _sweep(config: Config, found: Found) -> str:
    """Returns the table of bimodality by learning rate."""
    cell = config.figure_3("signSGD")
    scores = found.tuned[cell].scores[config.long_budget]
    rows = []
    for rate in sorted(scores):
        cells = []
        for epoch in config.epochs:
            ours = [s for s in found.swept if (s.rate, s.epoch) == (rate, epoch)]
            bimodal, apart = (
                100 * np.mean([getattr(one, name) for one in ours]) if ours else np.nan
                for name in ("bimodal", "apart")
            )
            cells.append(f"{apart:.0f} ({bimodal:.0f})" if ours else "")
        rows.append([f"{rate:g}", *cells, f"{scores[rate]:.2f}"])
    header = ["rate", *(f"before epoch {epoch}" for epoch in config.epochs),
              "validation accuracy"]
    return (
        "The same by learning rate, in the search on split batches: the part of the "
        "biases in % with the two parts of the digits more than 2 deviations apart (in "
        "brackets: with a bimodality coefficient above 5/9); accuracy at the end.\n\n"
        + table(header, rows)
    )

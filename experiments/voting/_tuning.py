"""The search for learning rates, on a validation part."""

from __future__ import annotations

from experiments._comparison import merit
from experiments._results import Results, progress, table
from experiments.voting._config import Config
from experiments.voting._lab import Lab
from experiments.voting._methods import METHODS


def tune(config: Config, lab: Lab, name: str) -> dict[str, dict[str, float]]:
    """Tries every rate of the grid; prints the best as options, and returns them.

    Args:
      config: of the search.
      lab: whose test part is the validation part.
      name: of the folder of results.
    """
    results = Results(config.results, name, config, study="majority_vote")
    most = config.workers[-1]
    cases = [(method, most) for method in config.methods]
    cases += [("sign_sgd", n) for n in config.workers[:-1]]
    trainings = len(cases) * len(config.tune_grid) * len(config.tune_seeds)
    best: dict[tuple[str, int], float] = {}
    rows = []
    with progress(trainings, unit="training") as bar:
        for case in cases:
            bar.set_description(f"{case[0]}, {case[1]} workers")
            merits = {}
            for rate in config.tune_grid:
                scores = []
                for seed in config.tune_seeds:
                    curve = lab.train(
                        *case, rate, seed, config.steps // config.every, config.every
                    )
                    scores.append((curve.test_accuracy[-1], curve.test_loss[-1]))
                    results.metric(
                        method=case[0], workers=case[1], learning_rate=rate, seed=seed,
                        accuracy=scores[-1][0], loss=scores[-1][1],
                    )
                    bar.update()
                merits[rate] = merit(*zip(*scores, strict=True))
            best[case] = max(merits, key=lambda rate: merits[rate])
            edge = best[case] in (min(config.tune_grid), max(config.tune_grid))
            rows.append(
                [METHODS[case[0]].label, str(case[1]), f"{best[case]:g}" + "*" * edge]
                + [f"{accuracy:.1f}" for accuracy, _ in merits.values()]
            )
    rates = {method: best[method, most] for method in config.methods}
    votes = {str(n): best["sign_sgd", n] for n in config.workers}
    header = ["method", "workers", "best", *(f"{r:g}" for r in config.tune_grid)]
    summary = "\n".join([
        f"Mean accuracy in % on {config.validation:.0%} of the training data of "
        f"{config.data} after {config.steps} steps, {len(config.tune_seeds)} seeds:",
        "", table(header, rows), "",
        "Of equal accuracies the one with the lower loss; * at the edge of the grid.",
        "", f"--learning-rates {_option(rates)}", f"--vote-rates {_option(votes)}",
    ])
    results.summary(summary)
    print(summary, "", results.files(), sep="\n")
    return {"learning_rates": rates, "vote_rates": votes}


def _option(values: dict[str, float]) -> str:
    return ",".join(f"{name}={value:g}" for name, value in values.items())

"""What Bernstein et al. claim of their grid search, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments._claims import Claim
from experiments._results import spread
from experiments.cifar._algorithms import ALGORITHMS

REDUCED = (
    "a ResNet of 78,042 parameters on 16 x 16 pixels; 2,500 training and 1,000 "
    "validation images of CIFAR-10 instead of 45,000 and 5,000; 4 epochs in batches of "
    "32 instead of 160 in batches of 128; 7 learning rates and 4 weight decays instead "
    "of 10 each; momentum 0.9 alone; one seed"
)

CLAIMS = (
    Claim(
        "winners", "B", "Figure A.3, bottom",
        "There is little difference between the final test set performance of the "
        "algorithms (validation winners 91.7 % SGD, 91.2 % Signum, 91.6 % Adam).",
        "the mean test accuracies of the winners of SGDm, Signum and Adam lie within "
        "{points:g} points of each other",
        reduced=f"{REDUCED}; the winners train on all 3,500 for 8 epochs, 3 seeds",
        figure="figure_winners.png",
    ),
    Claim(
        "likeness", "B", "Figures A.3, top, and A.4: shape",
        "There is a broad similarity in general shape of the heat map between Adam and "
        "signSGD, supporting a notion of algorithmic similarity.",
        "the rank correlation of Signum's validation accuracies with Adam's over the "
        "grid is greater than that with SGDm's by at least {margin:g}",
        reduced=REDUCED,
    ),
    Claim(
        "region", "B", "Figure A.4: region",
        "SGD has a larger region of very high-scoring hyperparameter configurations.",
        "more configurations of SGDm than of Signum, and than of Adam, are within "
        "{high:g} points of the best validation accuracy of all",
        reduced=REDUCED,
    ),
    Claim(
        "stable", "B", "Figure A.4: stability",
        "signSGD and Adam appear stable over a larger range of learning rates.",
        "at more learning rates of Signum, and of Adam, than of SGDm the best weight "
        "decay reaches at least a part of {stable:g} of the way from guessing to the "
        "algorithm's best validation accuracy",
        reduced=REDUCED,
    ),
    Claim(
        "momentum", "B", "Figure A.4: momentum",
        "SGD's heat map shifts up for increasing momentum (0, 0.5, 0.9), since mxnet "
        "couples the momentum and learning rate parameters.",
        "SGD's best learning rate falls as momentum grows",
        not_run="momentum is 0.9 throughout here: three times as many trainings do not "
        "fit the budget of this study", figure="",
    ),
)


def judged(
    config: Any, maps: Mapping[str, np.ndarray], tests: Mapping[str, Sequence[float]],
    guessing: float,
) -> dict[str, tuple[bool, str, str]]:
    """Returns whether each claim holds, the number and why.

    Args:
      config: of the study.
      maps: by algorithm, validation accuracy [learning rates, weight decays].
      tests: by algorithm, the winner's test accuracy of each seed.
      guessing: the accuracy of guessing.
    """
    lacking = {"sgdm", "signum", "adam"} - maps.keys()
    if lacking:
        why = f"not without {', '.join(sorted(lacking))}"
        return {claim.key: (False, "", why) for claim in CLAIMS if not claim.not_run}
    means = {name: float(np.mean(values)) for name, values in tests.items()}
    gap = max(means.values()) - min(means.values())

    def each(values: Mapping[str, Any], form: str = "") -> str:
        return ", ".join(f"{ALGORITHMS[n].label} {v:{form}}" for n, v in values.items())

    alike = {name: rank_correlation(maps["signum"], maps[name])
             for name in ("adam", "sgdm")}
    best = max(float(m.max()) for m in maps.values())
    high = {name: int((m >= best - config.high).sum()) for name, m in maps.items()}
    stable = {name: stable_rates(m, guessing, config.stable)
              for name, m in maps.items()}
    size, own = maps["sgdm"].size, float(maps["sgdm"].max())
    out = {
        "winners": (
            gap <= config.points,
            f"{each({n: spread(v) for n, v in tests.items()})} %; {gap:.1f} points "
            "from the worst to the best",
            f"{ALGORITHMS[min(means, key=lambda n: means[n])].label} is behind by "
            "more: in so short a training the speed of the first epochs decides",
        ),
        "likeness": (
            alike["adam"] >= alike["sgdm"] + config.margin,
            f"rank correlation of Signum with {each(alike, '.2f')}",
            "Signum's map is no more like Adam's than like SGDm's",
        ),
        "region": (
            high["sgdm"] > max(high["signum"], high["adam"]),
            f"of {size} configurations: {each(high)}",
            f"after {config.epochs} epochs SGDm's own best is {best - own:.1f} points "
            "below the best of all, so that few of its configurations come near it",
        ),
        "stable": (
            min(stable["signum"], stable["adam"]) > stable["sgdm"],
            f"of {len(maps['sgdm'])} learning rates: {each(stable)}",
            "SGDm works at as many learning rates as "
            + " and ".join(ALGORITHMS[n].label for n in ("signum", "adam")
                           if stable[n] <= stable["sgdm"])
            + f" or at more: of {len(maps['sgdm'])} rates a single one decides",
        ),
    }
    return {key: (holds, number, "" if holds else why)
            for key, (holds, number, why) in out.items()}


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns Spearman's correlation over all cells; 0 if either map is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(one), rankdata(other)
    if min(np.std(r) for r in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def stable_rates(map_: np.ndarray, guessing: float, part: float) -> int:
    """Returns at how many learning rates the best weight decay does well enough."""
    best = map_.max(axis=1)
    return int((best >= guessing + part * (best.max() - guessing)).sum())

"""What the study finds, and how it calls the algorithms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experiments.error_feedback._runs import Traced

EF_SIGN, SCALED = "EF-signSGD", "scaled signSGD"
IDENTITY, SGD = "EF, C(x) = x", "SGD"
TOP1 = "EF top-1"


class Reached(NamedTuple):
    """What a horizon reached.

    Attributes:
      learning_rate: that of Remark 6.
      bound: of Theorem III.
      value: [seeds], f(x̄_T) - f*.
      changed: how many coordinates a step changed at most.
    """

    learning_rate: float
    bound: float
    value: np.ndarray
    changed: int


class Found(NamedTuple):
    """What was measured.

    Attributes:
      algorithms: the runs of the two algorithms, by name.
      lost: φ and lost parts of squared norms by kind of vector, see `_vectors`.
      top1: of each horizon, of top-1 with feedback and of SGD.
    """

    algorithms: dict[str, Traced]
    lost: dict[str, dict[str, np.ndarray]]
    top1: dict[str, list[Reached]]

"""Which examples make a batch: the paper's two constructions."""

from __future__ import annotations

import numpy as np

from experiments.mnist._config import Batches

# Digits below it make one part of the split data, the others the other part.
DIVIDE = 5


def draw(
    batches: Batches, labels: np.ndarray, batch_size: int, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the batches of a run.

    Standard ones go through the examples in a new order each epoch, and leave out a
    rest that fills no batch. Each split one comes, with equal probabilities, from one
    part of the digits alone, examples drawn with replacement.

    Args:
      batches: how to draw.
      labels: of the examples [n].
      batch_size: at most n if standard.
      steps: how many batches.
      seed: of the draws.

    Returns:
      Indices of examples [steps, batch_size], and for each batch [steps] 1 if it is of
      the second part; 0 if it is of the first or standard.
    """
    rng = np.random.default_rng((seed, batches == "split", batch_size))
    if batches == "split":
        part = rng.integers(0, 2, steps)
        chosen = rng.random((steps, batch_size))
        orders = np.empty((steps, batch_size), np.int32)
        for number in (0, 1):
            members = np.flatnonzero((labels >= DIVIDE) == number)
            mine = part == number
            orders[mine] = members[(chosen[mine] * len(members)).astype(np.int32)]
        return orders, part
    each = len(labels) // batch_size
    used = each * batch_size
    shuffled = [
        rng.permutation(len(labels)).astype(np.int32)[:used]
        for _ in range(-(-steps // each))
    ]
    orders = np.concatenate(shuffled).reshape(-1, batch_size)[:steps]
    return orders, np.zeros(steps, np.int64)

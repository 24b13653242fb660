"""The 1797 handwritten digits of 8 by 8 pixels that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from experiments.data._dataset import Dataset, split


def load_digits(split_seed: int) -> Dataset:
    """Returns the digits; a fifth of them, drawn by `split_seed`, is to test on."""
    from sklearn import datasets

    x, y = datasets.load_digits(return_X_y=True)
    return split(x.astype(np.float32), y.astype(np.int32), 0.2, split_seed)

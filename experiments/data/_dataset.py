"""Examples as vectors, in two parts."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Inputs [n, features] in float32 and labels [n] in int32, in two parts."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def split(x: np.ndarray, y: np.ndarray, fraction: float, seed: int) -> Dataset:
    """Returns the examples with a fraction of them, drawn by `seed`, to test on."""
    order = np.random.default_rng(seed).permutation(len(x))
    held = round(fraction * len(x))
    test, train = order[:held], order[held:]
    return Dataset(x[train], y[train], x[test], y[test])


def hold_out(data: Dataset, fraction: float, split_seed: int) -> Dataset:
    """Returns the training part alone, with a part of it as the one to test on."""
    return split(data.x_train, data.y_train, fraction, split_seed)


def standardize(data: Dataset) -> Dataset:
    """Returns inputs of mean 0 and deviation 1, as measured on the training part.

    One mean and deviation for all pixels: many pixels never change.
    """
    mean, deviation = data.x_train.mean(), data.x_train.std()

    def scaled(x: np.ndarray) -> np.ndarray:
        return ((x - mean) / deviation).astype(np.float32)

    return dataclasses.replace(
        data, x_train=scaled(data.x_train), x_test=scaled(data.x_test)
    )

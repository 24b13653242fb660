"""Images as NumPy arrays: digits of scikit-learn, and MNIST and CIFAR from files."""

from __future__ import annotations

from experiments.data._cifar import CIFAR, Images, load_cifar
from experiments.data._dataset import Dataset, hold_out, standardize
from experiments.data._digits import load_digits
from experiments.data._idx import read_idx
from experiments.data._mnist import MNIST, load_mnist
from experiments.data._synthetic import synthetic_images

__all__ = [
    "CIFAR",
    "MNIST",
    "Dataset",
    "Images",
    "hold_out",
    "load",
    "load_cifar",
    "load_digits",
    "load_mnist",
    "read_idx",
    "standardize",
    "synthetic_images",
]


def load(name: str, data_dir: str | None, split_seed: int) -> Dataset:
    """Returns the data set "digits" or "mnist", not standardised.

    MNIST comes with its own test part; of the digits a fifth, drawn by `split_seed`.
    """
    return load_mnist(data_dir) if name == "mnist" else load_digits(split_seed)

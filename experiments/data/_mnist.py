"""MNIST from its four IDX files."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments._registry import StudyError
from experiments.data import _fetch
from experiments.data._dataset import Dataset
from experiments.data._idx import read_idx

# The names of MNIST's files; each may also end in .gz.
MNIST = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
EXPECTED = (
    "Expected are the four IDX files of the MNIST database of handwritten digits "
    "(LeCun, Cortes and Burges), each as it is or with .gz: "
    f"{', '.join(MNIST.values())}."
)


def load_mnist(data_dir: str | None) -> Dataset:
    """Returns MNIST from its four IDX files, compressed or not.

    Args:
      data_dir: the directory with the files; None fetches them.

    Raises:
      StudyError: if a file is missing, or is not what its name says.
    """
    if data_dir is None:
        directory = _fetch.fetch_files("mnist", _fetch.MNIST_FILES, EXPECTED)
    else:
        directory = pathlib.Path(data_dir)
    paths = {part: _find(directory, name) for part, name in MNIST.items()}
    missing = [MNIST[part] for part, path in paths.items() if path is None]
    if missing:
        raise StudyError(
            f"{directory} lacks {', '.join(missing)}. {EXPECTED} They are fetched "
            "where no directory is given."
        )
    arrays = {}
    for part, path in paths.items():
        assert path is not None
        arrays[part] = read_idx(path, dims=3 if part.startswith("x") else 1)
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if len(x) != len(y) or len(x) == 0 or y.max() > 9:
            raise StudyError(
                f"{directory}: {len(x)} images and {len(y)} labels in the {part} part "
                f"do not make digits from 0 to 9. {EXPECTED}"
            )
        arrays[f"x_{part}"] = x.reshape(len(x), -1).astype(np.float32)
        arrays[f"y_{part}"] = y.astype(np.int32)
    return Dataset(**arrays)


def _find(directory: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the file, its compressed form, or its name with a dot before idx."""
    for stem in (name, name.replace("-idx", ".idx")):
        for path in (directory / stem, directory / f"{stem}.gz"):
            if path.is_file():
                return path
    return None

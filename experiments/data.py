"""Handwritten digits as NumPy arrays: those of scikit-learn, and MNIST from files."""

from __future__ import annotations

import dataclasses
import gzip
import math
import pathlib
import zlib

import numpy as np

from experiments._registry import StudyError

# The names of MNIST's files; each may also end in .gz.
MNIST = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Inputs [n, features] in float32 and labels [n] in int32, in two parts."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(name: str, data_dir: str | None, split_seed: int) -> Dataset:
    """Returns the data set "digits" or "mnist", not standardised.

    MNIST comes with its own test part; of the digits a fifth, drawn by `split_seed`.
    """
    if name == "mnist":
        return load_mnist(data_dir)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return _split(x.astype(np.float32), y.astype(np.int32), 0.2, split_seed)


def hold_out(data: Dataset, fraction: float, split_seed: int) -> Dataset:
    """Returns the training part alone, with a part of it as the one to test on."""
    return _split(data.x_train, data.y_train, fraction, split_seed)


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


def _split(x: np.ndarray, y: np.ndarray, fraction: float, seed: int) -> Dataset:
    order = np.random.default_rng(seed).permutation(len(x))
    held = round(fraction * len(x))
    test, train = order[:held], order[held:]
    return Dataset(x[train], y[train], x[test], y[test])


def load_mnist(data_dir: str | None) -> Dataset:
    """Returns MNIST from its four IDX files, compressed or not.

    Raises:
      StudyError: if a file is missing, or is not what its name says.
    """
    if data_dir is None:
        raise StudyError(f"--data mnist needs --data-dir DIR. {_expected()}")
    directory = pathlib.Path(data_dir)
    paths = {part: _find(directory, name) for part, name in MNIST.items()}
    missing = [MNIST[part] for part, path in paths.items() if path is None]
    if missing:
        raise StudyError(f"{directory} lacks {', '.join(missing)}. {_expected()}")
    arrays = {}
    for part, path in paths.items():
        assert path is not None
        dims = 3 if part.startswith("x") else 1
        arrays[part] = read_idx(path, dims)
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if len(x) != len(y) or len(x) == 0 or y.max() > 9:
            raise StudyError(
                f"{directory}: {len(x)} images and {len(y)} labels in the {part} part "
                "do not make digits."
            )
        arrays[f"x_{part}"] = x.reshape(len(x), -1).astype(np.float32)
        arrays[f"y_{part}"] = y.astype(np.int32)
    return Dataset(**arrays)


def read_idx(path: pathlib.Path, dims: int) -> np.ndarray:
    """Returns the bytes of an IDX file as an array of so many dimensions."""
    try:
        raw = path.read_bytes()
        # By content, since some archives decompress files and keep their names.
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"cannot read {path}: {error}") from error
    # Two zeros, the code of unsigned bytes, and the number of dimensions.
    if raw[:4] != bytes([0, 0, 8, dims]):
        raise StudyError(
            f"{path} is not an IDX file of bytes with {dims} dimensions: it starts "
            f"with {raw[:4].hex()!r}. {_expected()}"
        )
    start = 4 + 4 * dims
    header = raw[4:start].ljust(4 * dims, b"\0")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
    if len(raw) != start + math.prod(shape):
        raise StudyError(
            f"{path} is damaged: it has {len(raw)} bytes, and by its header, {shape}, "
            f"{start + math.prod(shape)}."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _find(directory: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the file, its compressed form, or its name with a dot before idx."""
    for stem in (name, name.replace("-idx", ".idx")):
        for path in (directory / stem, directory / f"{stem}.gz"):
            if path.is_file():
                return path
    return None


def _expected() -> str:
    files = ", ".join(MNIST.values())
    return (
        f"Expected are the four IDX files of the MNIST database of handwritten digits "
        f"(LeCun, Cortes and Burges), each as it is or with .gz: {files}."
    )

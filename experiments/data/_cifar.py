"""CIFAR-10 and CIFAR-100 from their official files, binary or pickled."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal, NamedTuple

import numpy as np

from experiments._registry import StudyError
from experiments.data import _fetch
from experiments.data._pickles import read_pickle

Part = tuple[np.ndarray, np.ndarray]  # Pixels [n, 3072] and labels [n], both uint8.
PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Images:
    """Colour images in two parts.

    Attributes:
      x_train: uint8 [n, 32, 32, 3]: rows, columns, and red, green, blue.
      y_train: int32 [n].
      x_test: as x_train.
      y_test: as y_train.
      classes: how many.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int


class Cifar(NamedTuple):
    """How one of the two data sets comes.

    Attributes:
      classes: how many.
      train: names of the files to train on, without .bin.
      test: name of the file to test on, without .bin.
      binary: the directory of the binary files.
      pickled: the directory of the pickled files.
      labels: the greatest values plus 1 of the bytes before an image; the last counts.
      key: of the labels in the pickled files.
    """

    classes: int
    train: tuple[str, ...]
    test: str
    binary: str
    pickled: str
    labels: tuple[int, ...]
    key: str


CIFAR = {
    "cifar10": Cifar(
        10, tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch",
        "cifar-10-batches-bin", "cifar-10-batches-py", (10,), "labels",
    ),
    "cifar100": Cifar(
        100, ("train",), "test",
        "cifar-100-binary", "cifar-100-python", (20, 100), "fine_labels",
    ),
}


def load_cifar(
    name: Literal["cifar10", "cifar100"],
    data_dir: str | None,
    *,
    examples: tuple[int, int] = (50_000, 10_000),
) -> Images:
    """Returns CIFAR-10, or CIFAR-100 with its fine labels.

    Args:
      name: which.
      data_dir: the directory with the binary or the pickled files, or its parent;
        None fetches the binary ones.
      examples: how many there must be to train and to test on, evenly in the files.

    Raises:
      StudyError: if a file is missing, or is not what its name says.
    """
    cifar = CIFAR[name]
    directory, suffix = _find(cifar, _fetched(cifar, data_dir))
    read = _read_binary if suffix else _read_pickled
    each = examples[0] // len(cifar.train)
    parts = [read(directory / (f + suffix), cifar, each) for f in cifar.train]
    pixels, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    test = directory / (cifar.test + suffix)
    test_pixels, test_labels = read(test, cifar, examples[1])
    return Images(
        _images(pixels), labels.astype(np.int32),
        _images(test_pixels), test_labels.astype(np.int32), cifar.classes,
    )


def _fetched(cifar: Cifar, data_dir: str | None) -> pathlib.Path:
    """Returns the directory that was given, or one with the fetched files."""
    if data_dir is not None:
        return pathlib.Path(data_dir)
    archive = _fetch.CIFAR_ARCHIVES[cifar.binary]
    names = tuple(f"{name}.bin" for name in (*cifar.train, cifar.test))
    return _fetch.fetch_archive(cifar.binary, archive, names, _expected(cifar))


def _find(cifar: Cifar, directory: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Returns the directory that has all the files, and what their names end in."""
    lacking: list[tuple[int, str]] = []
    # The binary files first: nothing in them is ever interpreted.
    for suffix, folder in ((".bin", cifar.binary), ("", cifar.pickled)):
        for place in (directory, directory / folder):
            names = [f + suffix for f in (*cifar.train, cifar.test)]
            missing = [f for f in names if not (place / f).is_file()]
            if not missing:
                return place, suffix
            if len(missing) < len(names):
                lacking.append((len(missing), f"{place} lacks {', '.join(missing)}"))
    found = min(lacking)[1] if lacking else f"{directory} has no such files"
    raise StudyError(
        f"{found}. {_expected(cifar)} They are fetched where no directory is given."
    )


def _read_binary(path: pathlib.Path, cifar: Cifar, count: int) -> Part:
    """Returns the records of a binary file: labels, then planes of pixels."""
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error}") from error
    labels = len(cifar.labels)
    if raw.size != count * (labels + PIXELS):
        raise StudyError(
            f"{path} is damaged or another file: it has {raw.size} bytes, and {count} "
            f"records of {labels + PIXELS} bytes make {count * (labels + PIXELS)}."
        )
    records = raw.reshape(count, labels + PIXELS)
    for column, classes in enumerate(cifar.labels):
        _check_labels(path, records[:, column], classes)
    return records[:, labels:], records[:, labels - 1]


def _read_pickled(path: pathlib.Path, cifar: Cifar, count: int) -> Part:
    """Returns pixels and labels of a pickled file."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise StudyError(f"{path} holds a {type(content).__name__}, not a dict.")
    names = {n.decode("latin1") if isinstance(n, bytes) else n: n for n in content}
    missing = [name for name in ("data", cifar.key) if name not in names]
    if missing:
        raise StudyError(f"{path} lacks {' and '.join(missing)}. {_expected(cifar)}")
    pixels, labels = content[names["data"]], content[names[cifar.key]]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise StudyError(f"{path} is damaged: its data are not an array of bytes.")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise StudyError(f"{path} is damaged: its labels are not a list of integers.")
    if pixels.shape != (count, PIXELS) or len(labels) != count:
        raise StudyError(
            f"{path} is damaged or another file: data {pixels.shape} and {len(labels)} "
            f"labels, and there must be {(count, PIXELS)} and {count}."
        )
    numbers = np.asarray(labels)
    _check_labels(path, numbers, cifar.classes)
    return pixels, numbers


def _check_labels(path: pathlib.Path, labels: np.ndarray, classes: int) -> None:
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise StudyError(
            f"{path} is damaged or another file: labels from {labels.min()} to "
            f"{labels.max()}, and there are {classes} classes."
        )


def _images(pixels: np.ndarray) -> np.ndarray:
    """Returns planes of colours [n, 3072] as images [n, 32, 32, 3]."""
    planes = pixels.reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _expected(cifar: Cifar) -> str:
    files = ", ".join((*cifar.train, cifar.test))
    return (
        f"Expected is the directory {cifar.binary} with {files}, each with .bin, or "
        f"{cifar.pickled} with the same names without it, or the parent of either."
    )

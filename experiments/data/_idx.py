"""The IDX format, in which MNIST comes."""

from __future__ import annotations

import gzip
import math
import pathlib
import zlib

import numpy as np

from experiments._registry import StudyError

# No file is read beyond this: the largest of MNIST has 47,040,016 bytes.
LARGEST = 1 << 26


def read_idx(path: pathlib.Path, dims: int) -> np.ndarray:
    """Returns the bytes of an IDX file as an array of so many dimensions.

    Raises:
      StudyError: if it cannot be read, or is not such a file.
    """
    try:
        with path.open("rb") as file:
            # By content, since some archives decompress files and keep their names.
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = gzip.GzipFile(fileobj=file) if zipped else file
            raw = content.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"cannot read {path}: {error}") from error
    if len(raw) > LARGEST:
        raise StudyError(
            f"{path} is not a file of MNIST: it holds more than {LARGEST} bytes."
        )
    # Two zeros, the code of unsigned bytes, and the number of dimensions.
    if raw[:4] != bytes([0, 0, 8, dims]):
        raise StudyError(
            f"{path} is not an IDX file of bytes with {dims} dimensions: it starts "
            f"with {raw[:4].hex()!r}."
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

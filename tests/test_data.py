"""Digits: MNIST's files, whole and damaged, and splits."""

import gzip
import struct

import numpy as np
import pytest

from experiments import data
from experiments._registry import StudyError


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_files_are_read(zipped, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 5, 4)), np.arange(12) % 10
    for part, name in data.MNIST.items():
        raw = idx(images if part.startswith("x") else labels)
        path = tmp_path / (name + ".gz" * zipped)
        path.write_bytes(gzip.compress(raw) if zipped else raw)
    loaded = data.load("mnist", str(tmp_path), split_seed=0)
    np.testing.assert_array_equal(loaded.x_test, images.reshape(12, 20))
    np.testing.assert_array_equal(loaded.y_train, labels)
    assert loaded.x_train.dtype == np.float32 and loaded.y_train.dtype == np.int32


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"<html>not found</html>", "not an IDX file"),
        (idx(np.zeros(3)), "not an IDX file"),
        (idx(np.zeros((2, 3, 4)))[:-1], "is damaged"),
        (b"\x00\x00\x08\x03\x00", "is damaged"),
        (gzip.compress(idx(np.zeros((2, 3, 4))))[:-9], "cannot read"),
    ],
    ids=["text", "another type", "too short", "header cut off", "cut off within"],
)
def test_damaged_mnist_files_are_refused(raw, message, tmp_path):
    path = tmp_path / data.MNIST["x_train"]
    path.write_bytes(raw)
    with pytest.raises(StudyError, match=message):
        data.read_idx(path, 3)


def test_a_small_file_that_expands_beyond_mnist_is_refused(tmp_path):
    path = tmp_path / data.MNIST["x_train"]
    header = gzip.compress(idx(np.zeros((0, 3, 4))))
    path.write_bytes(header + gzip.compress(bytes(1 << 24)) * 16)
    assert path.stat().st_size < 1 << 19
    with pytest.raises(StudyError, match="holds more than 67108864 bytes"):
        data.read_idx(path, 3)
    # The largest file of MNIST is read.
    path.write_bytes(gzip.compress(idx(np.zeros((60_000, 28, 28))), 1))
    assert data.read_idx(path, 3).shape == (60_000, 28, 28)


def test_splits_are_disjoint_whole_and_the_same_each_time():
    loaded = data.load("digits", None, split_seed=3)
    parts = data.hold_out(loaded, 0.25, split_seed=3)
    pieces = [parts.x_train, parts.x_test, loaded.x_test]
    assert [len(x) for x in pieces] == [1078, 360, 359]
    # Every digit is a different image, so that sets of rows tell them apart.
    assert len({row.tobytes() for row in np.concatenate(pieces)}) == 1797
    again = data.hold_out(data.load("digits", None, 3), 0.25, 3)
    np.testing.assert_array_equal(again.x_train, parts.x_train)
    scaled = data.standardize(parts)
    assert abs(scaled.x_train.mean()) < 1e-5 and abs(scaled.x_train.std() - 1) < 1e-5

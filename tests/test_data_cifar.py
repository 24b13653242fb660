"""CIFAR from files: whole ones, damaged ones, and pickles that want more."""

import pickle
import re
import signal
import struct

import numpy as np
import pytest

from experiments import data
from experiments._registry import StudyError
from experiments.data._pickles import read_pickle

EXAMPLES = (10, 4)


def synthetic(name, seed=0):
    """Returns images [n, 3072] as bytes, and labels, of both parts together."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (sum(EXAMPLES), 3072), np.uint8)
    labels = rng.integers(0, data.CIFAR[name].classes, sum(EXAMPLES), np.uint8)
    return pixels, labels


def batches(name, pixels, labels):
    """Yields file names without .bin and what is in them."""
    cifar = data.CIFAR[name]
    each = EXAMPLES[0] // len(cifar.train)
    for number, file in enumerate(cifar.train):
        part = slice(number * each, (number + 1) * each)
        yield file, pixels[part], labels[part]
    yield cifar.test, pixels[EXAMPLES[0] :], labels[EXAMPLES[0] :]


def write_binary(name, directory, pixels, labels):
    directory.mkdir(parents=True, exist_ok=True)
    for file, x, y in batches(name, pixels, labels):
        columns = [y[:, None], x]
        if name == "cifar100":
            columns.insert(0, y[:, None] // 5)
        (directory / f"{file}.bin").write_bytes(np.hstack(columns).tobytes())


def python2_string(text):
    return b"U" + bytes([len(text)]) + text.encode()


def python2_pickle(name, x, y, columns_first=False):
    """Returns a pickle of protocol 2 as Python 2 wrote it, operation by operation."""
    raw = x.T.tobytes() if columns_first else x.tobytes()
    number = b"J" + struct.pack("<i", len(x))
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02"
        b"K\x00\x85U\x01b\x87R(K\x01" + number + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nq\x03" + python2_string("u1") + b"K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + (b"\x88" if columns_first else b"\x89")
        + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in y) + b"e"
    names = b"](" + python2_string("a.png") + b"e"
    items = [python2_string("data"), array, python2_string("filenames"), names,
             python2_string(data.CIFAR[name].key), labels]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def write_pickles(name, directory, pixels, labels, **how):
    directory.mkdir(parents=True, exist_ok=True)
    for file, x, y in batches(name, pixels, labels):
        (directory / file).write_bytes(python2_pickle(name, x, y, **how))


def check(name, loaded, pixels, labels):
    images = np.concatenate([loaded.x_train, loaded.x_test])
    assert images.shape == (14, 32, 32, 3) and len(loaded.x_train) == 10
    for n, row, column, colour in [(0, 0, 0, 0), (3, 5, 31, 2), (13, 31, 7, 1)]:
        at = colour * 1024 + row * 32 + column
        assert images[n, row, column, colour] == pixels[n, at]
    np.testing.assert_array_equal(images.transpose(0, 3, 1, 2).reshape(14, -1), pixels)
    np.testing.assert_array_equal(np.append(loaded.y_train, loaded.y_test), labels)
    assert images.dtype == np.uint8 and loaded.y_train.dtype == np.int32
    assert loaded.x_train.flags.c_contiguous
    assert loaded.classes == data.CIFAR[name].classes


@pytest.mark.parametrize("inside", [True, False], ids=["folder", "parent"])
@pytest.mark.parametrize("layout", ["binary", "pickled"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_both_layouts(name, layout, inside, tmp_path):
    directory = tmp_path / getattr(data.CIFAR[name], layout)
    write = write_binary if layout == "binary" else write_pickles
    write(name, directory, *synthetic(name))
    place = directory if inside else tmp_path
    loaded = data.load_cifar(name, str(place), examples=EXAMPLES)
    check(name, loaded, *synthetic(name))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_pickles_of_today_are_read(protocol, tmp_path):
    pixels, labels = synthetic("cifar100")
    for file, x, y in batches("cifar100", pixels, labels):
        content = {"data": x, "fine_labels": y.tolist(), b"coarse_labels": [0] * len(x)}
        (tmp_path / file).write_bytes(pickle.dumps(content, protocol))
    loaded = data.load_cifar("cifar100", str(tmp_path), examples=EXAMPLES)
    check("cifar100", loaded, pixels, labels)


def test_arrays_stored_by_columns_are_read(tmp_path):
    write_pickles("cifar10", tmp_path, *synthetic("cifar10"), columns_first=True)
    loaded = data.load_cifar("cifar10", str(tmp_path), examples=EXAMPLES)
    check("cifar10", loaded, *synthetic("cifar10"))


class Calls:
    """A pickle of it calls a function."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def build(first, state):
    """Returns a pickle that sets the attributes of what a name stands for."""
    return b"\x80\x02c" + first + state + b"b."


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (lambda mark: pickle.dumps(Calls(open, mark, "w")), "open"),
        (lambda mark: pickle.dumps({"data": [Calls(eval, f"open({mark!r}, 'w')")]}),
         "refused to load builtins.eval"),
        (lambda mark: pickle.dumps(Calls(np.save, mark, 1)), "refused to load numpy"),
        (lambda mark: b"cnumpy.core.multiarray\nfromfile\n.", "refused to load"),
        (lambda mark: b"cbuiltins\ngetattr\n.", "refused to load builtins.getattr"),
        (lambda mark: pickle.dumps(np.array([Calls(open, mark, "w")])), "refused"),
        (lambda mark: pickle.dumps(np.array([{}]), 2), "refused an array of object"),
        (lambda mark: pickle.dumps(np.zeros(2, [("a", "u1")]), 2), "refused"),
        (lambda mark: build(b"numpy\ndtype\n", b"}U\x05_makeK\x01s"), "_Maker"),
        (lambda mark: build(b"numpy\ndtype\n", b"N}X\x05\0\0\0_makeK\x01s\x86"),
         "refused to set _make"),
        (lambda mark: b"cnumpy\nndarray\n)\x81.", "refused the operation NEWOBJ"),
        (lambda mark: b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0utf-8\x86R.",
         "refused to encode"),
        (lambda mark: b"cnumpy.core.multiarray\n_reconstruct\n)R.", "without elements"),
        (lambda mark: pickle.dumps({1.5: 2}), "refused the operation BINFLOAT"),
        (lambda mark: pickle.dumps({1}), "refused the operation EMPTY_SET"),
        (lambda mark: pickle.dumps(None), "refused a value of type NoneType"),
        (lambda mark: pickle.dumps((1, 2)), "refused a value of type tuple"),
        (lambda mark: b"\x80\x02]q\x00h\x00a.", "refused to fetch 0"),
        (lambda mark: b"]" * 5000 + b"a" * 4999 + b".", "RecursionError"),
        (lambda mark: python2_pickle("cifar10", *synthetic("cifar10"))[:-9],
         "is not a whole pickle"),
        (lambda mark: b"", "is not a whole pickle"),
        (lambda mark: b"<html>not found</html>", "is not a whole pickle"),
    ],
)
def test_pickles_that_hold_anything_else_are_refused(raw, message, tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / "data_batch_1"
    path.write_bytes(raw(str(mark)))
    with pytest.raises(StudyError, match=message) as refused:
        read_pickle(path)
    assert str(path) in str(refused.value)
    assert not mark.exists()


def doubled(value, times=26):
    """Returns a value that holds the one before twice, and so on."""
    for _ in range(times):
        value = type(value)((value, value))
    return value


def encoded(times, size=1 << 16):
    """Returns a pickle of one string of that size, encoded that often."""
    text = b"X" + struct.pack("<I", size) + b"a" * size
    call = b"h\x00h\x01X\x06\0\0\0latin1\x86R"
    return b"c_codecs\nencode\nq\x000" + text + b"q\x010](" + call * times + b"e."


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (lambda: pickle.dumps({"data": doubled([])}), "refused to fetch"),
        (lambda: pickle.dumps({"data": doubled([])}, 0), "refused to fetch"),
        (lambda: pickle.dumps({doubled((1,), 20): 1}), "refused to fetch"),
        (lambda: encoded(2000), "refused"),
        (lambda: encoded(2000).replace(b"0", b""), "refused to fetch 1"),
        (lambda: b"\x80\x02]r" + struct.pack("<I", 1 << 22) + b".", "refused to store"),
        (lambda: b"]p4194304\n.", "refused to store at 4194304"),
        (lambda: b"](" + b"]" * (1 << 20) + b"e.", "refused more than 1048576"),
        (lambda: pickle.dumps({n * (2**61 - 1): 0 for n in range(9)}),
         "refused an integer of more than 32 bits"),
    ],
    ids=["lists", "protocol 0", "hashes", "encoded", "encoded on a stack", "table",
         "table in protocol 0", "empty lists", "colliding integers"],
)
def test_small_pickles_of_huge_values_are_refused_at_once(raw, message, tmp_path):
    class Late(BaseException):  # Which no `except Exception` takes.
        pass

    def late(number, frame):
        raise Late

    path = tmp_path / "data_batch_1"
    path.write_bytes(raw())
    refused, before = None, signal.signal(signal.SIGALRM, late)
    # Again each second: what is raised in a callback of the collector is lost.
    signal.setitimer(signal.ITIMER_REAL, 10, 1)
    try:
        read_pickle(path)
    except (StudyError, Late) as error:
        refused = repr(error)  # In a traceback pytest would compare the lists.
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert refused is not None and re.search(message, refused), refused


def test_a_pickle_as_long_as_that_of_cifar100_is_read(tmp_path):
    count = 50_000
    content = {
        b"filenames": [b"bos_taurus_s_%06d.png" % n for n in range(count)],
        b"fine_labels": [n % 100 for n in range(count)],
        b"coarse_labels": [n % 20 for n in range(count)],
        b"batch_label": b"training batch 1 of 1",
    }
    for protocol in (0, 2):
        (tmp_path / "train").write_bytes(pickle.dumps(content, protocol))
        read = read_pickle(tmp_path / "train")
        assert read[b"filenames"] == content[b"filenames"]
        assert read[b"fine_labels"] == content[b"fine_labels"]


def test_what_the_pickles_above_would_do_is_done_by_an_ordinary_unpickler(tmp_path):
    pickle.loads(pickle.dumps(Calls(open, str(tmp_path / "executed"), "w"))).close()
    assert (tmp_path / "executed").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "data_batch_3.bin").unlink(), "lacks data_batch_3.bin"),
        (lambda d: cut(d / "test_batch.bin"), "12291 bytes, and 4 records of 3073"),
        (lambda d: (d / "data_batch_2.bin").write_bytes(b"\xff" * 2 * 3073),
         "labels from 255 to 255"),
        (lambda d: (d / "data_batch_1.bin").write_bytes(b""), "it has 0 bytes"),
    ],
    ids=["missing", "truncated", "labels", "empty"],
)
def test_damaged_binary_files_are_refused(damage, message, tmp_path):
    directory = tmp_path / "cifar-10-batches-bin"
    write_binary("cifar10", directory, *synthetic("cifar10"))
    damage(directory)
    with pytest.raises(StudyError, match=message):
        data.load_cifar("cifar10", str(tmp_path), examples=EXAMPLES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds a list"),
        ({"data": np.zeros((10, 3072), np.uint8)}, "lacks fine_labels"),
        ({"data": [1], "fine_labels": [1]}, "not an array of bytes"),
        ({"data": np.zeros((10, 3072)), "fine_labels": [1] * 10}, "not an array of"),
        ({"data": np.zeros((9, 3072), np.uint8), "fine_labels": [1] * 9}, "must be"),
        ({"data": np.zeros((10, 3072), np.uint8), "fine_labels": [1] * 9}, "must be"),
        ({"data": np.zeros((10, 3072), np.uint8), "fine_labels": ["1"] * 10},
         "not a list of integers"),
        ({"data": np.zeros((10, 3072), np.uint8), "fine_labels": [100] * 10},
         "labels from 100 to 100"),
    ],
)
def test_pickles_of_something_else_are_refused(content, message, tmp_path):
    for file in ("train", "test"):
        (tmp_path / file).write_bytes(pickle.dumps(content, 2))
    with pytest.raises(StudyError, match=message):
        data.load_cifar("cifar100", str(tmp_path), examples=EXAMPLES)


def test_the_wrong_directory_or_set_says_what_is_expected(tmp_path):
    with pytest.raises(StudyError, match=r"no such files.*cifar-100-binary with train"):
        data.load_cifar("cifar100", str(tmp_path / "nowhere"))
    write_binary("cifar10", tmp_path, *synthetic("cifar10"))
    with pytest.raises(StudyError, match="no such files"):
        data.load_cifar("cifar100", str(tmp_path))
    # Whole files that are not all of CIFAR.
    with pytest.raises(StudyError, match="10000 records"):
        data.load_cifar("cifar10", str(tmp_path))

"""Pickles of arrays and plain values, read without running what they name.

A pickle is a program: an ordinary unpickler calls whatever function it names. This one
knows four names, those that write down an array, and answers them with objects of its
own, which neither call NumPy's unpickling nor can be changed by the pickle.

A small pickle can also mean a huge value, by fetching again what it made already (a
list of one list twice, and so on), or ask for a huge table of what it may fetch. So its
operations are looked at first: only those that such files need, not too many, and only
names and short strings are fetched again.
"""

from __future__ import annotations

import io
import math
import pathlib
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from experiments._registry import StudyError

PLAIN = (str, bytes, int)
# Of older and newer releases of NumPy.
MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")


# CIFAR-100 needs 200,000 operations; where Python 3 wrote it in protocol 0, 700,000.
OPERATIONS = 1 << 20
LARGEST_INTEGER = 1 << 32
LONGEST_FETCHED = 64  # Characters of a string.
NAMES = {"GLOBAL", "STACK_GLOBAL"}
STRINGS = {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES",
}
INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"}
STORES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
FETCHES = {"GET", "BINGET", "LONG_BINGET"}
OTHERS = {
    "PROTO", "FRAME", "MARK", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "REDUCE", "BUILD",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM",
    "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
}
ALLOWED = NAMES | STRINGS | INTEGERS | STORES | FETCHES | OTHERS


def read_pickle(path: pathlib.Path) -> Any:
    """Returns dicts and lists of arrays, strings, bytes and integers.

    Strings that Python 2 wrote come as bytes, as do keys.

    Raises:
      StudyError: if it cannot be read, or holds anything else.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error}") from error
    try:
        _check_operations(raw)
        return _plain(_Unpickler(io.BytesIO(raw), encoding="bytes").load())
    # Damaged pickles fail in any way: by the end of the file, by keys, by types.
    except Exception as error:
        raise StudyError(
            f"{path} is not a whole pickle of arrays, strings and integers: "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_operations(raw: bytes) -> None:
    """Refuses a pickle whose value may be much larger than the pickle."""
    fetchable: dict[int, bool] = {}  # Of what is stored, by its index.
    small = False  # Whether the value made last is a name or a short string.
    argument: Any
    for count, (operation, argument, _) in enumerate(pickletools.genops(raw)):
        name = operation.name
        if name not in ALLOWED:
            raise pickle.UnpicklingError(f"refused the operation {name}")
        if count >= OPERATIONS:
            raise pickle.UnpicklingError(f"refused more than {OPERATIONS} operations")
        if name in INTEGERS and abs(argument) > LARGEST_INTEGER:
            raise pickle.UnpicklingError("refused an integer of more than 32 bits")
        if name in STORES:
            index = len(fetchable) if name == "MEMOIZE" else argument
            if index > count:  # The table of what is stored is as long as this.
                raise pickle.UnpicklingError(f"refused to store at {index}")
            fetchable[index] = small
        elif name in FETCHES:
            if not fetchable.get(argument):
                raise pickle.UnpicklingError(
                    f"refused to fetch {argument}: no name and no short string"
                )
            small = True
        else:
            small = name in NAMES or (
                name in STRINGS and len(argument) <= LONGEST_FETCHED
            )


class _Unpickler(pickle.Unpickler):
    """Knows the names that an array of numbers needs."""

    def find_class(self, module: str, name: str) -> Any:
        if module in MULTIARRAY and name == "_reconstruct":
            return _Maker(_Array)
        if (module, name) == ("numpy", "dtype"):
            return _Maker(_Type)
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # An argument of _reconstruct, never called.
        # How Python 3 writes bytes for Python 2.
        if (module, name) == ("_codecs", "encode"):
            return _Maker(_latin1)
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


class _Maker:
    """Calls what it was made with; the pickle cannot set its attributes."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]):
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"refused to set {name}")


def _latin1(text: str, encoding: str | bytes) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"refused to encode as {encoding!r}")
    return text.encode("latin1")


class _Type:
    """The type of an array's elements: a code like "u1", and an order of bytes."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str | bytes, *copy: Any):
        self._code, self._order = _text(code), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, base, names, fields, *_ = state
        if (base, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("refused an array of records")
        self._order = _text(order)

    def dtype(self) -> np.dtype[Any]:
        """Returns the type, which must be of numbers."""
        made = np.dtype(self._order + self._code)
        if made.kind not in "biuf":
            raise pickle.UnpicklingError(f"refused an array of {made}")
        return made


class _Array:
    """An array, made with nothing and then given its state."""

    __slots__ = ("_value",)

    def __init__(self, *empty: Any):
        self._value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, columns_first, raw = state
        dtype = kind.dtype()
        shape = tuple(int(n) for n in shape)
        if len(shape) > 2:
            raise pickle.UnpicklingError(f"refused an array of {len(shape)} dimensions")
        if len(raw) != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
            raise pickle.UnpicklingError(f"{len(raw)} bytes do not make {shape}")
        order: Any = "F" if columns_first else "C"
        self._value = np.frombuffer(raw, dtype).reshape(shape, order=order)

    def array(self) -> np.ndarray:
        """Returns it as NumPy's."""
        if self._value is None:
            raise pickle.UnpicklingError("an array without elements")
        return self._value


def _text(code: str | bytes) -> str:
    return code.decode("ascii") if isinstance(code, bytes) else code


def _plain(value: Any) -> Any:
    """Returns the value with NumPy's arrays, if it is of the kinds that may be."""
    if isinstance(value, _Array):
        return value.array()
    if type(value) is dict:
        return {_plain(name): _plain(part) for name, part in value.items()}
    if type(value) is list:
        return [_plain(part) for part in value]
    if type(value) in PLAIN:
        return value
    raise pickle.UnpicklingError(f"refused a value of type {type(value).__name__}")

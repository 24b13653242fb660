"""Which devices exchange with each other, as compiled programs write it."""

import math
import re

import numpy as np

Groups = tuple[tuple[int, ...], ...]

# {{0,1},{2,3}} or {}; [2,2]<=[4] or [2,2]<=[2,2]T(1,0); and, where sharding was
# propagated, mesh['a'=2,'b'=2] {'b'}, perhaps with device_ids=(...) before the axes.
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[(?P<mesh>[^\]]*)\](?:, ?device_ids=\((?P<ids>"
    r"\[[\d,]+\](?:T\([\d,]+\))?|[\d,]+)\))? \{(?P<axes>[^}]*)\}"
)
_AXIS = re.compile(r"'?([\w.\-]+)'?(?:=(\d+)|:\((\d+)\)(\d+))?")


def replica_groups(attributes: str) -> Groups | None:
    """Returns the groups of devices that an instruction's attributes name, in order.

    Empty where none are listed, which means all devices; None if it cannot be read.
    """
    if "replica_groups=" not in attributes:
        return ()
    listed, iota = _LISTED.search(attributes), _IOTA.search(attributes)
    mesh = _MESH.search(attributes)
    if listed:
        found = re.findall(r"\{([\d,]+)\}", listed[1])
        return tuple(sorted(_ints(group) for group in found))
    if iota:
        return _sorted(_counted(iota[2], iota[3]).reshape(_ints(iota[1])))
    return _along_axes(mesh) if mesh else None


def _along_axes(mesh: re.Match[str]) -> Groups | None:
    """Returns the groups of the devices of a mesh along some of its axes."""
    sizes = {name: int(n) for name, n, _, _ in _AXIS.findall(mesh["mesh"]) if n}
    ids = mesh["ids"]
    if ids is None:
        devices = np.arange(math.prod(sizes.values()))
    elif ids.startswith("["):
        dims, _, order = ids[1:].rstrip(")").partition("]")
        devices = _counted(dims, order.removeprefix("T(") or None)
    else:
        devices = np.array(_ints(ids))
    # An axis may be named in part: 'a':(2)4 are its 4 after a major factor of 2. All
    # axes are split so far that those named are whole.
    shape: list[int] = []
    place: dict[str, int] = {}
    named = _AXIS.findall(mesh["axes"])
    for axis, size in sizes.items():
        parts = [(int(pre), int(n), f"{axis}:{pre}")
                 for name, _, pre, n in named if name == axis and n]
        start = 1
        for pre, n, key in sorted(parts):
            if pre % start or size % (pre * n):
                return None
            shape += [pre // start, n]
            place[key] = len(shape) - 1
            start = pre * n
        place[axis] = len(shape)
        shape.append(size // start)
    try:
        wanted = [place[f"{name}:{pre}" if pre else name] for name, _, pre, _ in named]
        grid = devices.reshape(shape)
    except (KeyError, ValueError):
        return None
    others = [i for i in range(len(shape)) if i not in wanted]
    length = math.prod(shape[i] for i in wanted)
    return _sorted(grid.transpose(*others, *wanted).reshape(-1, length))


def _counted(dims: str, order: str | None) -> np.ndarray:
    """Returns devices numbered through an array of these dimensions, transposed."""
    shape = _ints(dims)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose(_ints(order)).ravel() if order else numbers.ravel()


def _sorted(groups: np.ndarray) -> Groups:
    return tuple(sorted(tuple(group) for group in groups.tolist()))


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(","))

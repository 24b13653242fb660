"""The text of a compiled program, taken apart: computations, instructions, types."""

import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) "
    r"(?P<opcode>[a-z][\w\-]*)\((?P<rest>.*)$"
)
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\]")
_WHOLE_BYTES = re.compile(r"(?:bf|f|s|u|c)(8|16|32|64|128)(?!\d)\w*")


class Instruction(NamedTuple):
    """One line of a computation; the type and the attributes are as it is written."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


class Program(NamedTuple):
    """A compiled program: instructions by name, of every computation by name."""

    computations: dict[str, dict[str, Instruction]]
    entry: str
    devices: int
    replicated_and_partitioned: bool


def parse(hlo: str) -> Program:
    """Takes the text of one compiled program apart."""
    computations: dict[str, dict[str, Instruction]] = {}
    entries = []
    current: dict[str, Instruction] = {}
    for line in hlo.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = computations.setdefault(start["name"], {})
            entries += [start["name"]] if start["entry"] else []
            continue
        found = _INSTRUCTION.match(_COMMENT.sub("", line))
        if found:
            operands, attributes = _split(found["rest"])
            current[found["name"]] = Instruction(
                found["name"], found["type"], found["opcode"], operands, attributes
            )
    if len(entries) != 1:
        raise ValueError(
            f"this is not the text of one compiled program: it has {len(entries)} "
            "entry computations. Pass compiled.as_text()."
        )
    header = hlo.partition("\n")[0]
    counts = [
        int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
    ]
    both = sum(n > 1 for n in counts) > 1
    return Program(computations, entries[0], math.prod(counts), both)


def _split(rest: str) -> tuple[tuple[str, ...], str]:
    """Splits what follows an opcode into names of operands and attributes."""
    depth, end = 1, 0
    while depth and end < len(rest):
        depth += (rest[end] in "({[") - (rest[end] in ")}]")
        end += 1
    # An operand may have its type in front: `f32[8]{0} %x`; a constant is no name.
    parts = re.split(r",\s*(?![^\[{(]*[\]})])", rest[: end - 1])
    words = [part.split()[-1] for part in parts if part.split()]
    names = (word.lstrip("%") for word in words)
    return tuple(names), rest[end:]


def called(instruction: Instruction, *keys: str) -> list[str]:
    """Returns the computations that attributes of an instruction name."""
    names: list[str] = []
    for key in keys:
        pattern = rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)"
        for value in re.findall(pattern, instruction.attributes):
            names += re.findall(r"[\w.\-]+", value)
    return names


def arrays(type_: str) -> list[tuple[str, int]]:
    """Returns dtype and bytes of every array in a type, such as (f32[8,3], s8[4])."""
    return [(dtype, _bytes(dtype, dims)) for dtype, dims in _ARRAY.findall(type_)]


def _bytes(dtype: str, dims: str) -> int:
    whole = _WHOLE_BYTES.fullmatch("u8" if dtype == "pred" else dtype)
    if not whole or not re.fullmatch(r"[\d,]*", dims):
        raise ValueError(f"cannot count the bytes of {dtype}[{dims}].")
    return int(whole[1]) // 8 * math.prod(int(n) for n in dims.split(",") if n)

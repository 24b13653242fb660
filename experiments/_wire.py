"""Bytes that each worker sends, read off a compiled program."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_COLLECTIVE = re.compile(
    r"= (?P<type>.+?) (?P<kind>(?:ragged-)?all-\w+(?:-\w+)*?|reduce-scatter|"
    r"collective-\w+)(?P<start>-start)?\("
)
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+).*body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|"
                       r"(?:true|false)_computation=%?([\w.\-]+))")
_CALLS = re.compile(r"(?:calls|to_apply|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a compiled program.

    Attributes:
      kind: all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute.
      size: bytes of what one worker puts in.
      workers: how many workers take part.
      times: how often one execution of the program runs it.
    """

    kind: str
    size: int
    workers: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that one worker sends each time.

        A ring reduces by sending every shard but one twice; to gather, a worker's
        input crosses to each of the others. No way sends less from every worker
        unless the switches of the network compute.
        """
        others = self.workers - 1
        factor = {
            "all-reduce": 2 * others / self.workers,
            "all-gather": others,
            "reduce-scatter": others / self.workers,
            "all-to-all": others / self.workers,
            "collective-permute": 1,
        }[self.kind]
        return factor * self.size


def bytes_sent(hlo: str) -> float:
    """Returns how many bytes each worker sends in one execution of a program.

    Args:
      hlo: the text of a compiled program, ``compiled.as_text()``.

    Raises:
      ValueError: for a collective whose bytes or number of executions the text does
        not tell, such as one in a loop without a known number of rounds.
    """
    return sum(c.times * c.sent for c in collectives(hlo))


def collectives(hlo: str) -> list[Collective]:
    """Returns the collectives of a compiled program, as `bytes_sent` counts them."""
    bodies, entry = _computations(hlo)
    partitions = re.search(r"(?:num_partitions|replica_count)=(\d+)", hlo)
    total = int(partitions.group(1)) if partitions else 1
    return list(_walk(bodies, entry, 1, total))


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of every computation, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = bodies.setdefault(start["name"], [])
            entry = start["name"] if start["entry"] else entry
        elif current is not None:
            current.append(line)
    if not entry:
        raise ValueError("this is not the text of a compiled program.")
    return bodies, entry


def _walk(
    bodies: dict[str, list[str]], name: str, times: int | None, total: int
) -> Iterator[Collective]:
    """Yields the collectives of a computation that runs so many times, None unknown."""
    for line in bodies[name]:
        found = _COLLECTIVE.search(line)
        if found and not found["kind"].endswith("-done"):
            if times is None:
                raise ValueError(
                    f"how often {found['kind']} runs depends on data; the program "
                    "does not tell."
                )
            yield _collective(line, found, times, total)
        loop = _LOOP.search(line)
        if loop:
            trips = _TRIPS.search(line)
            known = int(trips.group(1)) if trips and times is not None else None
            rounds = None if known is None or times is None else times * known
            for part in loop.groups():
                yield from _walk(bodies, part, rounds, total)
            continue
        for several, one in _BRANCHES.findall(line):
            for branch in re.findall(r"[\w.\-]+", several or one):
                yield from _walk(bodies, branch, None, total)
        for called in _CALLS.findall(line):
            for part in re.findall(r"[\w.\-]+", called):
                if part in bodies:
                    yield from _walk(bodies, part, times, total)


def _collective(
    line: str, found: re.Match[str], times: int, total: int
) -> Collective:
    kind, start = found["kind"], bool(found["start"])
    workers = _group_size(line, total)
    size = sum(_bytes(*array) for array in _ARRAY.findall(found["type"]))
    # The text gives the type of the result; of a -start of input and result.
    if kind == "all-gather":
        size //= workers + 1 if start else workers
    elif kind == "reduce-scatter" and not start:
        size *= workers
    elif kind not in ("all-reduce", "all-to-all", "collective-permute") or (
        start and kind != "all-reduce"
    ):
        raise ValueError(f"cannot count the bytes of {kind}{found['start'] or ''}.")
    return Collective(kind, size, workers, times)


def _group_size(line: str, total: int) -> int:
    """Returns how many workers exchange with each other."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed:
        return len(listed.group(1).split(","))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    return int(iota.group(1)) if iota else total


def _bytes(dtype: str, dims: str) -> int:
    """Returns the bytes of an array such as f32[8,3]."""
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return math.ceil(math.prod(int(n) for n in dims.split(",") if n) * bits / 8)

"""The collectives of a compiled program, and the bytes that they make workers send."""

import dataclasses
import re
from typing import NamedTuple

from ef_optax.wire._groups import Groups, replica_groups
from ef_optax.wire._hlo import Instruction, Program, arrays, called, parse

_COUNTED = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
)
_CROSSES = re.compile(
    r"all-(?:reduce|gather|to-all)|reduce-scatter|collective-|ragged-|send$|recv$|"
    r"partition-send|partition-recv"
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a compiled program.

    `size` is the bytes of what one worker puts in, of all `dtype`, joined by +; `times`
    how often one execution runs it, at most; `conditional` whether it is in a branch;
    `source` where the program has it from, such as ``jit(step)/.../psum``; `groups`
    which devices exchange with each other, empty if all do.
    """

    kind: str
    size: int
    workers: int
    times: int
    dtype: str = ""
    conditional: bool = False
    source: str = ""
    groups: Groups = ()

    @property
    def sent(self) -> float:
        """Bytes that one worker sends each time, as `wire_report` states."""
        others = self.workers - 1
        factor = {
            "all-reduce": 2 * others / self.workers, "all-gather": others,
            "reduce-scatter": others / self.workers,
            "all-to-all": others / self.workers,
            "collective-permute": min(others, 1),
        }[self.kind]
        return factor * self.size


class Traffic(NamedTuple):
    """Bytes that each worker sends, at least and at most, depending on branches."""

    least: float
    most: float
    collectives: tuple[Collective, ...]


def bytes_sent(hlo: str) -> float:
    """Returns how many bytes each worker sends by ``hlo = compiled.as_text()``.

    Refuses what `read_program` does, and bytes that depend on branches.
    """
    traffic = read_program(hlo)
    if traffic.least != traffic.most:
        raise ValueError(
            f"the program sends from {traffic.least:,.0f} to {traffic.most:,.0f} bytes,"
            " depending on the branches that are taken; see wire_report."
        )
    return traffic.most


def read_program(hlo: str | Program) -> Traffic:
    """Returns the collectives of a compiled program and the bytes they send.

    Refuses a collective whose bytes or number of executions the text does not tell,
    such as one in a loop without a known number of rounds.
    """
    program = parse(hlo) if isinstance(hlo, str) else hlo
    return _read(program, program.entry, 1, False)


def _add(*parts: Traffic) -> Traffic:
    return Traffic(
        sum(p.least for p in parts), sum(p.most for p in parts),
        tuple(c for p in parts for c in p.collectives),
    )


def _read(program: Program, name: str, times: int, conditional: bool) -> Traffic:
    """Reads a computation that one execution of the program runs so many times."""
    found = Traffic(0, 0, ())
    for line in program.computations[name].values():
        if line.opcode == "while":
            found = _add(found, _loop(program, line, times, conditional))
        elif line.opcode == "conditional":
            found = _add(found, _branches(program, line, times))
        elif _CROSSES.match(line.opcode):
            if not line.opcode.endswith(("-done", "-update")):
                one = _collective(program, name, line, times, conditional)
                sent = one.times * one.sent
                found = _add(found, Traffic(sent, sent, (one,)))
        elif line.opcode not in ("async-done", "async-update"):
            # A fusion, a call, a reducer: what they call runs as often as they do.
            for part in called(line, "calls", "to_apply", "called_computations"):
                found = _add(found, _read(program, part, times, conditional))
    return found


def _loop(
    program: Program, line: Instruction, times: int, conditional: bool
) -> Traffic:
    (condition,), (body,) = called(line, "condition"), called(line, "body")
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line.attributes)
    rounds = int(trips[1]) if trips else 1
    inside = _add(
        _read(program, condition, times * (rounds + 1), conditional),
        _read(program, body, times * rounds, conditional),
    )
    if inside.collectives and not trips:
        kinds = " and ".join(sorted({c.kind for c in inside.collectives}))
        raise ValueError(
            f"how often {kinds} runs depends on data; the program does not tell, so no "
            "sum of bytes would be true. Report the body of the loop alone."
        )
    return inside


def _branches(program: Program, line: Instruction, times: int) -> Traffic:
    names = called(line, "branch_computations", "true_computation", "false_computation")
    parts = [_read(program, name, times, True) for name in names]
    return Traffic(
        min(part.least for part in parts), max(part.most for part in parts),
        _add(*parts).collectives,
    )


def _collective(
    program: Program, name: str, line: Instruction, times: int, conditional: bool
) -> Collective:
    kind = line.opcode.removesuffix("-start")
    if kind not in _COUNTED:
        raise ValueError(
            f"cannot count the bytes of {line.opcode}; of {', '.join(_COUNTED)} it can."
        )
    put_in = []
    for operand in line.operands:
        defined = program.computations[name].get(operand)
        if defined is None or defined.type.startswith("("):
            raise ValueError(f"cannot read the operand {operand} of {line.opcode}.")
        put_in += arrays(defined.type)
    size = sum(n for _, n in put_in)
    workers = _group_size(program, line, kind)
    # The type of a -start also names its operands, and buffers of its own.
    result = sum(n for _, n in arrays(line.type))
    gathered, scattered = kind == "all-gather", kind == "reduce-scatter"
    expected = size * (workers if gathered else 1)
    if kind == line.opcode and result * (workers if scattered else 1) != expected:
        raise ValueError(
            f"{line.opcode} {line.name} among {workers} makes {result} bytes of "
            f"{size}, so that one of the three is misread."
        )
    source = re.search(r'op_name="([^"]*)"', line.attributes)
    return Collective(
        kind, size, workers, times, "+".join(sorted({d for d, _ in put_in})),
        conditional, source[1] if source else "", _groups(line),
    )


def _groups(line: Instruction) -> Groups:
    """Returns the groups of devices, in order; nothing where none are listed."""
    groups = replica_groups(line.attributes)
    if groups is None:
        raise ValueError(f"cannot read the groups of {line.name}.")
    return groups


def _group_size(program: Program, line: Instruction, kind: str) -> int:
    """Returns how many workers exchange with each other."""
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{([\d,{}]*)\}", line.attributes)
        if not pairs:
            raise ValueError(f"cannot read who sends in {line.name}.")
        ends = re.findall(r"\{(\d+),(\d+)\}", pairs[1] + "}")
        moved = {end for pair in ends if pair[0] != pair[1] for end in pair}
        return max(1, len(moved))
    sizes = {len(group) for group in _groups(line)}
    if len(sizes) > 1:
        raise ValueError(
            f"{line.name}: groups of {sorted(sizes)} workers send unlike numbers of "
            "bytes; no number per worker would be true."
        )
    if sizes:
        return sizes.pop()
    # No groups: all devices are one.
    if program.replicated_and_partitioned:
        raise ValueError(
            f"{line.name} lists no groups in a program of replicas and partitions."
        )
    return program.devices


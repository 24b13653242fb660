"""Gradient synchronisation of a ResNet-50's 161 leaves over real processes.

    python -m experiments bench_wire --workers 2

Every contender takes the gradient of each process to the update of all. They run in
turn, round by round, with gradient and state donated and a barrier before each; a time
is that of the slowest process, the least and the median over the rounds. Bytes are
what the network interface counted (on the loopback, of all processes together).

Break-even: with b bytes that a worker sends and c seconds for all else, a step takes
c + 8 b / B at B bits a second. Against float32 pmean (flat), compression wins below
B = 8 (b_pmean - b) / (c - c_pmean), and always where c <= c_pmean. c is the least
time measured, less 8 b / RATE where the links have a `--rate`; so without one it
includes what the loopback takes.

On hosts of its own, each process gets RANK COUNT HOST:PORT at the end of the command,
and its interface from the environment variable IFACE.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from dataclasses import field
from subprocess import DEVNULL
from time import perf_counter
from typing import Any

import jax
import numpy as np

import ef_optax
from experiments import _cli, _torch_contenders
from experiments._contenders import FLAT, MEANS, OURS, SLOW, Gradient, Shapes, Step
from experiments._distributed import free_port, initialize, leaving_at_once
from experiments._registry import StudyError
from experiments._results import Results, table
from experiments.bench_update import resnet50_sizes
from experiments.launch import Group

COUNTERS = pathlib.Path("/proc/net/dev")


@dataclasses.dataclass(frozen=True)
class Config:
    """Times and weighs gradient synchronisation of a ResNet-50 between processes."""

    workers: int = field(default=2, metadata={
        "help": "processes to start on this host; 0: be one of those that `launch`, "
                "mpirun or srun started"})
    rounds: int = field(default=10, metadata={"help": "how often all run in turn"})
    slow_rounds: int = field(default=1, metadata={
        "help": f"how often {', '.join(SLOW)} runs; 0: not at all"})
    only: tuple[str, ...] = field(default=(), metadata={
        "help": "words; contenders without any of them stay away, but for flat pmean"})
    shrink: int = field(default=1, metadata={
        "help": "divide every leaf's size by this"})
    leaves: int = field(default=0, metadata={"help": "only the last so many; 0: all"})
    rate: float = field(default=0.0, metadata={
        "help": "Gbit/s of the links if they are limited, for the break-even"})
    torch: bool = field(default=True, metadata={
        "help": "run PyTorch's ways too, where it is installed"})
    torch_port: int = field(default=12399, metadata={"help": "where they meet"})
    results: str = field(
        default="results", metadata={"help": "directory of all results"})
    rank: tuple[str, ...] = field(default=(), metadata={
        "positional": True,
        "help": "RANK COUNT HOST:PORT of this process, where each is started by hand"})

    def __post_init__(self) -> None:
        if min(self.rounds, self.shrink) < 1:
            raise ValueError(
                "rounds and shrink must be at least 1; got "
                f"{self.rounds} and {self.shrink}."
            )
        if min(self.workers, self.slow_rounds, self.leaves, self.rate) < 0:
            raise ValueError(
                "workers, slow_rounds, leaves and rate must not be negative; got "
                f"{self.workers}, {self.slow_rounds}, {self.leaves} and {self.rate:g}."
            )
        if self.rank and (len(self.rank) != 3 or ":" not in self.rank[2]):
            got = " ".join(self.rank)
            raise ValueError(f"expected RANK COUNT HOST:PORT; got {got}.")


def run(config: Config) -> dict[str, dict[str, Any]]:
    """Measures all contenders; returns what was measured, by name."""
    if not config.rank and config.workers:
        config = dataclasses.replace(config, torch_port=free_port())
        own = dataclasses.replace(config, workers=0)
        command = [sys.executable, "-m", "experiments", "bench_wire"]
        with Group(
            [*command, *_cli.options_of(own)], config.workers,
            {"JAX_NUM_CPU_DEVICES": "1"}, stdout=DEVNULL, stderr=None,
        ) as group:
            if group.wait(grace=10):
                raise StudyError(
                    f"one of the {config.workers} processes failed; what it says stands"
                    " above."
                )
        results = pathlib.Path(config.results) / "bench_wire"
        print((results / "summary.md").read_text())
        lines = (results / "metrics.jsonl").read_text().splitlines()
        return {row.pop("synchronisation"): row for row in map(json.loads, lines)}
    host = "127.0.0.1"
    if config.rank:
        number, count, coordinator = config.rank
        initialize(int(number), int(count), coordinator)
        host = coordinator.rpartition(":")[0]
    else:
        initialize()
        host = os.environ.get("JAX_COORDINATOR_ADDRESS", host).rpartition(":")[0]
    with leaving_at_once():
        return _measure(config, host)


def shapes_of(sizes: list[int]) -> Shapes:
    """Returns matrices [inputs, outputs] for kernels, which their biases follow."""
    following = [*sizes[1:], sizes[-1]]
    return [
        (n // width, width) if n > width and n % width == 0 else (n,)
        for n, width in zip(sizes, following, strict=True)
    ]


def sent_bytes(interface: str) -> int:
    """Returns how many bytes an interface of this host has sent so far."""
    known = []
    for line in COUNTERS.read_text().splitlines():
        name, colon, counts = line.partition(":")
        if name.strip() == interface:
            return int(counts.split()[8])
        known += [name.strip()] if colon else []
    raise StudyError(
        f"{COUNTERS} has no interface {interface!r}; set IFACE to the one that the "
        f"workers send by, of {', '.join(known)}."
    )


def _measure(config: Config, host: str) -> dict[str, dict[str, Any]]:
    mesh = ef_optax.worker_mesh()
    sizes = resnet50_sizes()[-config.leaves :]
    shapes = shapes_of([max(1, n // config.shrink) for n in sizes])
    total = sum(int(np.prod(shape)) for shape in shapes)
    interface = os.environ.get("IFACE", "lo")
    # On the loopback each process sees the bytes of all.
    sharing = jax.process_count() if interface == "lo" else 1
    leaves, flat = Gradient(mesh, shapes), Gradient(mesh, [(total,)])
    contenders: list[Any] = [
        Step(name, mesh, flat if name == FLAT else leaves)
        for name in (*MEANS, *OURS) if _wanted(config, name)
    ]
    torch = config.torch and _torch_contenders.start(
        jax.process_index(), jax.process_count(), host, config.torch_port, interface
    )
    if torch:
        contenders += [
            _torch_contenders.TorchStep(name, shapes)
            for name in _torch_contenders.TORCH if _wanted(config, name)
        ]
    sent: dict[str, float] = {}
    # Round 0 connects and warms up; PowerSGD compresses from its third step on.
    for number in range(-2 if torch else 0, config.rounds + 1):
        for contender in contenders:
            if not _runs(config, contender.name, number):
                continue
            contender.prepare(number + 3)
            _barrier()
            before = sent_bytes(interface) if COUNTERS.exists() else 0
            # Nobody starts before all have read.
            _barrier()
            start = perf_counter()
            contender.run()
            seconds = perf_counter() - start
            _barrier()
            if number > 0:
                contender.seconds.append(seconds)
                if COUNTERS.exists():
                    bytes_ = (sent_bytes(interface) - before) / sharing
                    sent[contender.name] = min(bytes_, sent.get(contender.name, bytes_))
    rows = {c.name: _row(c, sent.get(c.name), total) for c in contenders}
    _break_even(rows, config.rate)
    if torch:
        _torch_contenders.stop()
    if jax.process_index() == 0:
        _write(config, rows, total, len(shapes), interface)
    return rows


def _runs(config: Config, name: str, number: int) -> bool:
    """Returns whether a contender takes part in a round; up to 0 they warm up."""
    if name in SLOW:
        return 0 < number <= config.slow_rounds
    return number >= 0 or name.startswith("torch")


def _wanted(config: Config, name: str) -> bool:
    if name in SLOW and not config.slow_rounds:
        return False
    return name == FLAT or not config.only or any(w in name for w in config.only)


def _barrier() -> None:
    from jax.experimental import multihost_utils

    multihost_utils.process_allgather(np.zeros(1, np.int8))


def _row(contender: Any, sent: float | None, total: int) -> dict[str, Any]:
    """Returns what was measured of a contender by all processes."""
    from jax.experimental import multihost_utils

    mine = np.array([*contender.seconds, 0.0 if sent is None else sent])
    every = np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, mine.size)
    seconds = every[:, :-1].max(axis=0)
    bytes_ = None if sent is None else float(every[:, -1].mean())
    temporary = contender.temporary_bytes
    report = contender.report
    return {
        "milliseconds": 1e3 * float(seconds.min()),
        "median_milliseconds": 1e3 * float(np.median(seconds)),
        "bytes_per_worker": bytes_,
        "bits_per_parameter": None if bytes_ is None else 8 * bytes_ / total,
        "reported_bits_per_parameter": (
            None if report is None else 8 * report.bytes_sent / total
        ),
        "temporary_bytes_per_parameter": (
            None if temporary is None else temporary / total
        ),
    }


def _break_even(rows: dict[str, dict[str, Any]], rate: float) -> None:
    """Adds the bandwidth below which each contender beats flat float32 pmean."""
    base = rows[FLAT]
    for row in rows.values():
        sent = row["bytes_per_worker"]
        row["times_faster"] = base["milliseconds"] / row["milliseconds"]
        if sent is None:
            row["break_even_gbit"] = None
            continue
        saved = 8e-9 * (base["bytes_per_worker"] - sent)  # Gbit
        more = 1e-3 * (row["milliseconds"] - base["milliseconds"])
        if rate:
            more += saved / rate
        if more <= 0 or row is base:
            row["break_even_gbit"] = float("inf") if saved > 0 else 0.0
        else:
            row["break_even_gbit"] = max(0.0, saved / more)


def _write(
    config: Config, rows: dict[str, Any], total: int, leaves: int, interface: str
) -> None:
    def cell(value: float | None, digits: int = 2) -> str:
        return "?" if value is None else f"{value:.{digits}f}"

    def edge(value: float | None) -> str:
        if value is None or value in (0.0, float("inf")):
            return {None: "?", 0.0: "never"}.get(value, "any")
        return f"{value:.2f}"

    headline = (
        f"{total:,} float32 in {leaves} leaves, {jax.process_count()} processes, "
        f"{os.cpu_count()} cores of this host; bytes by {interface}; best of "
        f"{config.rounds} rounds"
        + (f"; links of {config.rate:g} Gbit/s" if config.rate else "")
    )
    text = table(
        ("synchronisation", "ms", "median ms", "x flat", "bits/param", "by wire_report",
         "temporary B/param", "wins below Gbit/s"),
        [
            (
                name, cell(row["milliseconds"], 1), cell(row["median_milliseconds"], 1),
                cell(row["times_faster"]), cell(row["bits_per_parameter"], 3),
                cell(row["reported_bits_per_parameter"], 3),
                cell(row["temporary_bytes_per_parameter"], 3),
                "" if name == FLAT else edge(row["break_even_gbit"]),
            )
            for name, row in rows.items()
        ],
    )
    results = Results(config.results, "bench_wire", config, replace=True)
    for name, row in rows.items():
        results.metric(synchronisation=name, workers=jax.process_count(), **row)
    results.summary(headline + "\n\n" + text)
    print(headline + "\n\n" + text, flush=True)

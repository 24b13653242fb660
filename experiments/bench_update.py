"""One update of a ResNet-50's parameters: time, temporary memory, compile time.

All contenders run in turn, round by round, with gradient and state donated, and a time
is the least over the rounds: ratios then hold on a machine that others use too. The
floor is the traffic that EF-signSGD cannot avoid, 24 bytes a parameter (gradient and
error read twice, once for the scale and once for the sign, and two writes), at the best
rate of a donated triad z = a x + y, which moves 12 bytes an element.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import ef_optax
from experiments._results import Results, table

_TRIAD_BYTES = 12
_FLOOR_BYTES = 24


def resnet50_sizes() -> list[int]:
    """Returns the sizes of ResNet-50's 161 leaves, 25.6M numbers in all."""
    sizes = [7 * 7 * 3 * 64, 64, 64]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            sizes += [channels * width, width, width]
            sizes += [9 * width * width, width, width]
            sizes += [width * 4 * width, 4 * width, 4 * width]
            if block == 0:
                sizes += [channels * 4 * width, 4 * width, 4 * width]
            channels = 4 * width
    return [*sizes, channels * 1000, 1000]


@dataclasses.dataclass(frozen=True)
class Config:
    """Times one update of each optimizer on a ResNet-50's 161 leaves."""

    rounds: int = dataclasses.field(
        default=30, metadata={"help": "how often everything runs in turn"}
    )
    shrink: int = dataclasses.field(
        default=1, metadata={"help": "divide every leaf's size by this"}
    )
    top_k_size: int = dataclasses.field(
        default=25_000_000, metadata={"help": "values for the comparison of top_k"}
    )
    top_k_fraction: float = dataclasses.field(
        default=0.01, metadata={"help": "part of them to keep"}
    )
    top_k_rounds: int = dataclasses.field(
        default=5, metadata={"help": "how often top_k runs"}
    )
    results: str = dataclasses.field(
        default="results", metadata={"help": "directory of all results"}
    )


def normals(sizes: list[int], seed: int) -> list[jax.Array]:
    """Returns normal numbers in leaves of these sizes, each a buffer of its own."""
    rng = np.random.default_rng(seed)
    return [jnp.array(rng.standard_normal(n, np.float32)) for n in sizes]


class Contender:
    """A compiled step (gradients, state) -> (updates, state) with both donated."""

    def __init__(self, name: str, step: Callable[..., Any], args: tuple[Any, Any]):
        self.name = name
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(*args)
        compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        self.temporary_bytes = memory.temp_size_in_bytes if memory else None
        self.compiled, self.args = compiled, jax.block_until_ready(args)
        self.seconds: list[float] = []

    def run(self) -> None:
        """Runs once; what comes out goes in again the next time."""
        start = time.perf_counter()
        self.args = jax.block_until_ready(self.compiled(*self.args))
        self.seconds.append(time.perf_counter() - start)


def of_optimizer(name: str, tx: Any, sizes: list[int]) -> Contender:
    """Returns an optimizer's update as a contender."""
    state = tx.init([jnp.zeros(n, jnp.float32) for n in sizes])
    return Contender(name, lambda g, s: tx.update(g, s), (normals(sizes, 0), state))


def run(config: Config) -> dict[str, Any]:
    """Times everything, prints a table and writes the figures."""
    sizes = [max(1, n // config.shrink) for n in resnet50_sizes()]
    total = sum(sizes)
    triad = Contender(
        "triad z = a x + y",
        lambda x, y: (x, [0.5 * a + b for a, b in zip(x, y, strict=True)]),
        (normals(sizes, 0), normals(sizes, 1)),
    )
    contenders = [
        triad,
        of_optimizer("ef_optax.ef_sign_sgd", ef_optax.ef_sign_sgd(1e-2), sizes),
        of_optimizer("ef_optax.sign_sgd", ef_optax.sign_sgd(1e-2), sizes),
        of_optimizer("optax.sgd, momentum", optax.sgd(1e-2, momentum=0.9), sizes),
        of_optimizer("optax.adam", optax.adam(1e-3), sizes),
    ]
    for _ in range(config.rounds):
        for contender in contenders:
            contender.run()
    floor = min(triad.seconds) * _FLOOR_BYTES / _TRIAD_BYTES
    rows = {
        c.name: {
            "milliseconds": 1e3 * min(c.seconds),
            "median_milliseconds": 1e3 * float(np.median(c.seconds)),
            "times_floor": min(c.seconds) / floor,
            "temporary_bytes_per_parameter": (
                None if c.temporary_bytes is None else c.temporary_bytes / total
            ),
            "compile_seconds": c.compile_seconds,
        }
        for c in contenders
    }
    headline = (
        f"{total:,} float32 in {len(sizes)} leaves on {jax.devices()[0].device_kind}, "
        f"{os.cpu_count()} cores; best of {config.rounds} rounds; floor "
        f"({_FLOOR_BYTES} bytes a parameter) {1e3 * floor:.1f} ms"
    )
    text = table(
        ("update", "ms", "median ms", "x floor", "temporary B/parameter", "compile s"),
        [
            (
                name,
                f"{row['milliseconds']:.1f}",
                f"{row['median_milliseconds']:.1f}",
                f"{row['times_floor']:.2f}",
                "?" if (b := row["temporary_bytes_per_parameter"]) is None
                else f"{b:.3f}",
                f"{row['compile_seconds']:.2f}",
            )
            for name, row in rows.items()
        ],
    )
    print(headline + "\n\n" + text, flush=True)
    # Their buffers would make the machine of the next comparison a smaller one.
    contenders.clear()
    selection = time_top_k(config)
    results = Results(config.results, "bench_update", config, replace=True)
    for name, row in rows.items():
        results.metric(update=name, **row)
    results.metric(selection="top_k", **selection)
    sentence = (
        f"top_k of {selection['kept']:,} of {selection['values']:,}: "
        f"{selection['milliseconds']:.0f} ms, jax.lax.top_k "
        f"{selection['lax_top_k_milliseconds']:.0f} ms, ratio "
        f"{selection['ratio']:.2f}, "
        f"{'the same' if selection['same_magnitudes'] else 'OTHER'} magnitudes"
    )
    print("\n" + sentence)
    results.summary(headline + "\n\n" + text + "\n\n" + sentence)
    return {"update": rows, "top_k": selection}


def time_top_k(config: Config) -> dict[str, Any]:
    """Times the selection of top_k beside jax.lax.top_k, which sorts."""
    size = config.top_k_size
    x = jnp.array(np.random.default_rng(0).standard_normal(size, np.float32))
    compressor = ef_optax.top_k(fraction=config.top_k_fraction)
    state = compressor.init(x)

    @jax.jit
    def ours(x: jax.Array) -> Any:
        message, _, _ = compressor.encode(x, state, ef_optax.Workers(None))
        return message[0]

    kept = ours(x)[0].size

    @jax.jit
    def sorting(x: jax.Array) -> Any:
        indices = lax.top_k(jnp.abs(x), kept)[1]
        return x[indices], indices

    seconds: dict[str, list[float]] = {"ours": [], "sorting": []}
    found = {}
    for i in range(config.top_k_rounds + 1):
        for name, function in (("ours", ours), ("sorting", sorting)):
            start = time.perf_counter()
            found[name] = jax.block_until_ready(function(x))
            if i:  # the first round compiles
                seconds[name].append(time.perf_counter() - start)
    values, _ = found["ours"]
    same = bool(
        jnp.all(jnp.sort(jnp.abs(values)) == jnp.sort(jnp.abs(found["sorting"][0])))
    )
    return {
        "values": size,
        "kept": kept,
        "milliseconds": 1e3 * min(seconds["ours"]),
        "lax_top_k_milliseconds": 1e3 * min(seconds["sorting"]),
        "ratio": min(seconds["ours"]) / min(seconds["sorting"]),
        "same_magnitudes": same,
    }

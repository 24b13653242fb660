"""Ways to synchronise a gradient between processes, each as a compiled step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax

AXIS = "workers"
Shapes = list[tuple[int, ...]]


def _feedback(compressor: Any, **kwargs: Any) -> Any:
    return ef_optax.error_feedback(compressor, axis_name=AXIS, **kwargs)


# Flat and per leaf, without a compressor, are made below.
FLAT = "float32 pmean flat"
PER_LEAF = "float32 pmean per leaf"
MEANS = (FLAT, PER_LEAF)
OURS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "identity all_reduce": lambda: ef_optax.compress(
        ef_optax.identity(), axis_name=AXIS
    ),
    "cast bfloat16 gather": lambda: ef_optax.compress(
        ef_optax.cast(jnp.bfloat16), axis_name=AXIS
    ),
    "vote psum": lambda: ef_optax.majority_vote(AXIS),
    "vote packed": lambda: ef_optax.majority_vote(
        AXIS, wire="packed", zero="positive", tie="positive"
    ),
    "vote packed two bits": lambda: ef_optax.majority_vote(AXIS, wire="packed"),
    "EF scaled_sign gather": lambda: _feedback(ef_optax.scaled_sign()),
    "EF scaled_sign two_way": lambda: _feedback(
        ef_optax.scaled_sign(), exchange=ef_optax.two_way()
    ),
    "sign gather": lambda: ef_optax.compress(ef_optax.sign(), axis_name=AXIS),
    "stochastic_sign gather": lambda: ef_optax.compress(
        ef_optax.stochastic_sign(), axis_name=AXIS
    ),
    "EF top_k 1% gather": lambda: _feedback(ef_optax.top_k(fraction=0.01)),
    "EF random_k 1% all_reduce": lambda: _feedback(ef_optax.random_k(fraction=0.01)),
    "EF k_pca 2 gather": lambda: _feedback(ef_optax.k_pca(2)),
}
SLOW = ("EF k_pca 2 gather",)


class Gradient:
    """The gradient of every worker, in one set of buffers that all contenders share."""

    def __init__(self, mesh: Mesh, shapes: Shapes):
        split = NamedSharding(mesh, P(AXIS))

        def fill(seed: jax.Array, old: jax.Array) -> jax.Array:
            return _noise(old.shape, seed)

        # Leaf by leaf, compiled once a shape. The old values are donated, so that
        # filling makes no new buffers.
        self._fill = jax.jit(
            fill, donate_argnums=1, out_shardings=split, keep_unused=True
        )
        zeros = jax.jit(jnp.zeros, static_argnums=0, out_shardings=split)
        self.value = [zeros((mesh.size, *shape)) for shape in shapes]

    def refill(self, seed: int) -> None:
        """Puts new numbers into the buffers."""
        self.value = jax.block_until_ready([
            self._fill(np.uint32(1000 * seed + i), leaf)
            for i, leaf in enumerate(self.value)
        ])


def _noise(shape: tuple[int, ...], seed: jax.Array) -> jax.Array:
    """Returns numbers in [-1, 1) that no compressor finds a pattern in."""
    bits = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    for axis in range(len(shape) - 1):
        bits += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(
            (0x9E3779B1, 0x85EBCA77)[axis % 2]
        )
    bits = (bits + seed * np.uint32(0xC2B2AE3D)) * np.uint32(0x27D4EB2F)
    bits = (bits ^ (bits >> 15)) * np.uint32(0x2C1B3C6D)
    return (bits ^ (bits >> 13)).astype(jnp.int32).astype(jnp.float32) / 2.0**31


class Step:
    """A compiled step that synchronises a gradient, with gradient and state donated."""

    def __init__(self, name: str, mesh: Mesh, gradient: Gradient):
        self.name, self._gradient = name, gradient
        self.seconds: list[float] = []
        function, self._state = _step(name, mesh, [
            x.shape[1:] for x in gradient.value
        ])
        start = time.perf_counter()
        compiled = (
            jax.jit(function, donate_argnums=(0, 1))
            .lower(gradient.value, self._state)
            .compile()
        )
        self.compile_seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        self.temporary_bytes = memory.temp_size_in_bytes if memory else None
        self.report = ef_optax.wire_report(compiled)
        self._compiled = compiled

    def prepare(self, seed: int) -> None:
        """Makes what is to be synchronised."""
        self._gradient.refill(seed)

    def run(self) -> None:
        """Synchronises once; what comes out is on all processes."""
        self._gradient.value, self._state = jax.block_until_ready(
            self._compiled(self._gradient.value, self._state)
        )

    def close(self) -> None:
        """Frees the state."""
        self._state = None


def _step(name: str, mesh: Mesh, shapes: Shapes) -> tuple[Callable[..., Any], Any]:
    split = NamedSharding(mesh, P(AXIS))
    if name in MEANS:

        def mean(grads: Any, state: Any) -> Any:
            return [jax.lax.pmean(g, AXIS) for g in grads], state

        mapped = jax.shard_map(
            mean, mesh=mesh, in_specs=(P(AXIS), P()), out_specs=(P(AXIS), P())
        )
        return mapped, ()
    tx = ef_optax.over_workers(OURS[name](), mesh, AXIS)
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    zeros = jax.jit(
        lambda: [jnp.zeros(p.shape, p.dtype) for p in params],
        out_shardings=NamedSharding(mesh, P()),
    )

    def step(grads: Any, state: Any) -> Any:
        updates, state = tx.update(grads, state)
        # Of the gradient's shape again, so that it can take its buffer.
        out = [
            jax.lax.with_sharding_constraint(jnp.broadcast_to(u, g.shape), split)
            for u, g in zip(updates, grads, strict=True)
        ]
        return out, state

    return step, jax.jit(tx.init)(zeros())

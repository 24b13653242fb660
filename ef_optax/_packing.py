"""Eight signs to a byte."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def packed_size(size: int) -> int:
    """Returns the number of bytes that hold `size` bits."""
    return -(-size // 8)


def pack_bits(bits: jax.Array) -> jax.Array:
    """Packs a boolean array, flattened, into uint8; the first bit is the lowest."""
    return jnp.packbits(bits.reshape(-1), bitorder="little")


def unpack_bits(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Unpacks what `pack_bits` packed into a boolean array of `shape`."""
    size = 1
    for n in shape:
        size *= n
    shifts = jnp.arange(8, dtype=jnp.uint8)
    bits = (packed[:, None] >> shifts) & jnp.uint8(1)
    return bits.reshape(-1)[:size].reshape(shape).astype(bool)


def index_dtype(size: int) -> jnp.dtype:
    """Returns the smallest unsigned integer dtype that holds 0 .. size - 1."""
    for dtype in (jnp.uint8, jnp.uint16, jnp.uint32):
        if size <= jnp.iinfo(dtype).max + 1:
            return jnp.dtype(dtype)
    return jnp.dtype(jnp.uint64)

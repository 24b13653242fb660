"""Eight signs to a byte."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax


def packed_size(size: int) -> int:
    """Returns the number of bytes that hold `size` bits."""
    return -(-size // 8)


def pack_bits(bits: jax.Array) -> jax.Array:
    """Packs a boolean array, flattened, into uint8; the first bit is the lowest."""
    flat = bits.reshape(-1)
    if flat.size % 8:
        flat = jnp.pad(flat, (0, -flat.size % 8))
    shifts = jnp.arange(8, dtype=jnp.uint8)
    # In bytes all the way: jnp.packbits adds up in 32 bits, four times the memory.
    return lax.reduce(
        flat.reshape(-1, 8).astype(jnp.uint8) << shifts,
        jnp.uint8(0), lax.bitwise_or, (1,),
    )


def unpack_bits(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Unpacks what `pack_bits` packed into a boolean array of `shape`."""
    size = math.prod(shape)
    shifts = jnp.arange(8, dtype=jnp.uint8)
    bits = (packed[:, None] >> shifts) & jnp.uint8(1)
    return bits.reshape(-1)[:size].reshape(shape).astype(bool)


def index_dtype(size: int) -> jnp.dtype:
    """Returns the smallest unsigned integer dtype that holds 0 .. size - 1."""
    for dtype in (jnp.uint8, jnp.uint16, jnp.uint32):
        if size <= jnp.iinfo(dtype).max + 1:
            return jnp.dtype(dtype)
    return jnp.dtype(jnp.uint64)

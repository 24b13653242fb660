"""Eight signs to a byte."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SHIFTS = np.arange(8, dtype=np.uint8)


def packed_size(size: int) -> int:
    """Returns the number of bytes that hold `size` bits."""
    return -(-size // 8)


def pack_bits(bits: jax.Array) -> jax.Array:
    """Packs a boolean array, flattened, into uint8; the first bit is the lowest."""
    # In bytes all the way: jnp.packbits adds up in 32 bits, four times the memory.
    return lax.reduce(_eights(bits) << _SHIFTS, jnp.uint8(0), lax.bitwise_or, (1,))


def pack_planes(
    planes: tuple[jax.Array, ...], marks: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """Packs boolean arrays of one shape, and tells which bytes hold a mark.

    All come from one reduction, so that what they are made of is read once.

    Returns:
      The packed planes, and a uint8 array [bytes] that is not 0 where one of the
      eight coordinates is marked.
    """
    words = (*(_eights(plane) << _SHIFTS for plane in planes), _eights(marks))

    def either(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(x | y for x, y in zip(a, b, strict=True))

    *packed, marked = lax.reduce(words, (jnp.uint8(0),) * len(words), either, (1,))
    return packed, marked


def _eights(bits: jax.Array) -> jax.Array:
    """Returns a flattened boolean array as uint8 in rows of eight."""
    flat = bits.reshape(-1)
    if flat.size % 8:
        flat = jnp.pad(flat, (0, -flat.size % 8))
    return flat.reshape(-1, 8).astype(jnp.uint8)


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

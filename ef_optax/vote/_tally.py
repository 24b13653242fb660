"""Votes counted where they lie: eight coordinates to a byte, by bitwise logic."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Above this many planes they are added in a loop, not one after another.
_UNROLL = 16


def count(planes: jax.Array, most: int) -> list[jax.Array]:
    """Counts for every bit in how many planes it is set.

    Args:
      planes: uint8, [planes, bytes].
      most: the largest number that the count must be able to hold.

    Returns:
      The binary digits of the counts, lowest first, each a uint8 array [bytes]: digit
      k of the count of bit b of byte i is bit b of byte i of the k-th array.
    """
    digits = [jnp.zeros_like(planes[0])] * max(1, most.bit_length())

    def add(digits: list[jax.Array], plane: jax.Array) -> list[jax.Array]:
        out, carry = [], plane
        for digit in digits:
            out.append(digit ^ carry)
            carry = digit & carry
        return out

    if planes.shape[0] > _UNROLL:
        return lax.scan(lambda d, p: (add(d, p), None), digits, planes)[0]
    for plane in planes:
        digits = add(digits, plane)
    return digits


def at_least(digits: list[jax.Array], bound: Any) -> jax.Array:
    """Returns for every bit whether its count is at least `bound`.

    Args:
      digits: what :func:`count` returns.
      bound: an integer scalar, concrete or traced, within what the digits can hold;
        below 0 it counts as 0.
    """
    bound = jnp.maximum(jnp.asarray(bound, jnp.int32), 0)
    borrow = jnp.zeros_like(digits[0])
    for k, digit in enumerate(digits):
        # Eight copies of the bound's digit: 0 or 255.
        one = (-((bound >> k) & 1)).astype(jnp.uint8)
        borrow = (~digit & one) | ((~digit | one) & borrow)
    return ~borrow

"""Exact selection of the k largest integer keys without sorting all of them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Key = Callable[[jax.Array], jax.Array]

# Bits in a word of a packed mask. Rows of just this length are also what XLA's
# CPU backend vectorises and splits over cores: sums of longer rows, or of an
# array as a whole, are about ten times slower there.
_BITS = 32
# Up to this size sort: the passes are no faster, or not by enough to be worth a
# second to compile. XLA's CPU backend sorts floats much faster than integers.
_SMALL = 1 << 12
_SMALL_FLOAT = 1 << 18
# Size of the sorted sample that brackets the k-th largest key.
_SAMPLE = 1 << 14
# Full passes end when at most one key in so many may still be the k-th largest.
_SHRINK = 128


def magnitude_bits(x: jax.Array) -> jax.Array:
    """Returns unsigned integers of the same width that are ordered as ``|x|``.

    An IEEE number without its sign bit, read as an integer, grows with the magnitude;
    infinity comes after all finite numbers and NaN after infinity. Unlike floats,
    integers compare alike on every backend, whatever it does to denormals and NaN.
    """
    dtype = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return lax.bitcast_convert_type(x, dtype) & dtype.type(jnp.iinfo(dtype).max >> 1)


def largest(keys: jax.Array, k: int, key: Key | None = None) -> jax.Array:
    """Returns the indices of the ``k`` largest of the 1-D unsigned ``keys``.

    They are exact, in no particular order, int32 (int64 from 2**31 keys on); of equal
    keys the lower indices count. It takes a few passes over the keys.

    Args:
      keys: 1-D array of unsigned integers.
      k: How many to select, a static number from 0 to ``keys.size``.
      key: If given, an elementwise function from ``keys``, then of any type, to the
        integers to compare: every pass computes them afresh, which saves time and
        memory.
    """
    (d,) = keys.shape
    if not 0 <= k <= d:
        raise ValueError(f"k must be from 0 to {d}, got {k}")
    index = jnp.dtype("int32" if d < 2**31 else "int64")
    if jax.dtypes.canonicalize_dtype(index) != index:
        raise ValueError(
            f"top_k and random_k need 64 bits to count {d} coordinates, 2**31 or more: "
            "set jax.config.update('jax_enable_x64', True), or split the leaf."
        )
    magnitudes = key is magnitude_bits and keys.dtype.itemsize >= 4
    if d > (_SMALL_FLOAT if magnitudes else _SMALL) and k > 0:
        return _largest(keys, k, key, index)
    if magnitudes:
        ranked = jnp.abs(keys)
    else:
        ranked = keys if key is None else key(keys)
    return lax.top_k(ranked, k)[1].astype(index)


def _largest(x: jax.Array, k: int, key: Key | None, index: jnp.dtype) -> jax.Array:
    """Select as `largest` does, for 0 < k <= d, in passes over packed masks."""
    (d,) = x.shape
    room = -(-d // _SHRINK)
    lazy, of = key is not None, key or (lambda x: x)
    sample, below, above = _sample(x, k, of)

    # A bracket is (lo, hi, c_lo, c_hi): the k-th largest key is in [lo, hi],
    # c_lo >= k keys are >= lo, and c_hi < k keys are > hi.
    def search(bracket: Any) -> Any:
        lo, hi, c_lo, c_hi, _ = bracket
        return (lo < hi) & (c_lo - c_hi > room)

    def probe(bracket: Any) -> Any:
        *bracket, step = bracket
        lo, hi, _, _ = bracket
        # Try the ends of the bracket that the sample suggests. If that was not
        # enough halve the part of the sample in the bracket, not the bracket,
        # whose width says little about the number of keys in it. Where many keys
        # are equal its median is soon lo, and lo + 1 tells if they are the k-th.
        first = jnp.sum(sample < lo, dtype=jnp.int32)
        last = jnp.sum(sample <= hi, dtype=jnp.int32)
        median = sample[jnp.minimum((first + last) // 2, sample.size - 1)]
        pivot = jnp.where(median > lo, median, lo + 1)
        pivot = jnp.where(first < last, pivot, _middle(lo, hi))
        pivot = jnp.where(step == 0, below, jnp.where(step == 1, above, pivot))
        # Without the barrier XLA would compute all keys ahead of the loop.
        pivot, y = lax.optimization_barrier((pivot, x)) if lazy else (pivot, x)
        count = _count(_pack(of(y) >= pivot), index)
        return *_narrow(bracket, pivot, count, k), step + 1

    # Everything carried through a loop is derived from the data, so that it
    # varies over the same axes as the data when traced inside a shard_map.
    zero = sample[0] ^ sample[0]
    none = zero.astype(index)
    start = zero, ~zero, none + d, none, jnp.int32(0)
    lo, hi, c_lo, c_hi, _ = lax.while_loop(search, probe, start)

    # Finish among the candidates only. There are more than `room` only if all
    # are equal, but then lo == hi and the search is over.
    words = _pack((of(x) >= lo) & (of(x) <= hi))
    starts = _starts(words, index)
    places = _positions(words, starts, room, index)
    valid = jnp.arange(room, dtype=index) < c_lo - c_hi
    rest = jnp.where(valid, of(x.at[places].get(mode="clip")), 0)

    def probe_rest(bracket: Any) -> Any:
        pivot = _middle(bracket[0], bracket[1])
        count = c_hi + _count(_pack(rest >= pivot), index)
        return _narrow(bracket, pivot, count, k)

    kth, _, _, c_hi = lax.while_loop(
        lambda bracket: bracket[0] < bracket[1], probe_rest, (lo, hi, c_lo, c_hi)
    )
    # Of the keys equal to the k-th take as many as are still needed, in order.
    need = k - c_hi - 1
    ties = _pack(valid & (rest == kth))
    last_tie = jnp.where(
        lo == hi, _position(words, starts, need, index),
        places[_position(ties, _starts(ties, index), need, index)],
    )
    ties = (of(x) == kth) & (jnp.arange(d, dtype=index) <= last_tie)
    words = _pack((of(x) > kth) | ties)
    return _positions(words, _starts(words, index), k, index)


def _sample(x: jax.Array, k: int, key: Key) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a sorted sample, and keys likely just below and above the k-th."""
    d, size = x.size, min(_SAMPLE, -(-x.size // 2))
    stride = d // size
    # One key from each stride, at varying places: gradients are laid out in rows,
    # and a fixed step might see only some of the columns.
    i = jnp.arange(size, dtype=jnp.uint32)
    jitter = (i * jnp.uint32(2654435769) >> 8) % jnp.uint32(stride)
    wide = jnp.int32 if d < 2**31 else jnp.int64
    sample = jnp.sort(key(x[i.astype(wide) * stride + jitter.astype(wide)]))
    # Of 3.5 standard deviations; to miss the k-th costs only a few passes more.
    rank, margin = size * (1 - k / d), 1 + 3.5 * math.sqrt(size * k / d * (1 - k / d))
    below = max(0, math.floor(rank - margin))
    above = min(size - 1, math.ceil(rank + margin))
    return sample, sample[below], sample[above]


def _narrow(
    bracket: tuple[jax.Array, ...], pivot: jax.Array, count: jax.Array, k: int
) -> tuple[jax.Array, ...]:
    """Narrow a bracket, given that ``count`` keys are >= ``pivot``."""
    lo, hi, c_lo, c_hi = bracket
    up, down = (count >= k) & (pivot >= lo), (count < k) & (pivot <= hi)
    lo, c_lo = jnp.where(up, pivot, lo), jnp.where(up, count, c_lo)
    hi, c_hi = jnp.where(down, pivot - 1, hi), jnp.where(down, count, c_hi)
    return lo, hi, c_lo, c_hi


def _middle(lo: jax.Array, hi: jax.Array) -> jax.Array:
    """Returns the middle of [lo, hi] rounded up, without overflow."""
    return hi - (hi - lo) // 2


def _pack(mask: jax.Array) -> jax.Array:
    """Pack a 1-D mask into 32-bit words, its first element in the lowest bit."""
    rows = jnp.pad(mask, (0, -mask.size % _BITS)).reshape(-1, _BITS)
    bits = jnp.uint32(1) << jnp.arange(_BITS, dtype=jnp.uint32)
    return jnp.sum(jnp.where(rows, bits, 0), axis=1, dtype=jnp.uint32)


def _count(words: jax.Array, index: jnp.dtype) -> jax.Array:
    """Returns the number of set bits."""
    # To sum popcounts, not elements of the mask, also keeps XLA from merging the
    # two sums into the slow one over everything.
    return jnp.sum(lax.population_count(words), dtype=index)


def _starts(words: jax.Array, index: jnp.dtype) -> jax.Array:
    """Returns for each word the number of bits set before it."""
    counts = lax.population_count(words).astype(index)
    return jnp.cumsum(counts) - counts


def _position(
    words: jax.Array, starts: jax.Array, rank: jax.Array, index: jnp.dtype
) -> jax.Array:
    """Returns the position of the set bit that follows ``rank`` others."""
    word = _count(_pack(starts <= rank), index) - 1
    return word * _BITS + _bit(words[word], rank - starts[word]).astype(index)


def _positions(
    words: jax.Array, starts: jax.Array, size: int, index: jnp.dtype
) -> jax.Array:
    """Returns the positions of the first ``size`` set bits, in order."""
    # Each word marks the slot of its first bit. Words without a bit share the slot
    # of the next word that has one, whose number is greater.
    numbers = jnp.arange(words.size, dtype=index)
    marks = jnp.zeros_like(starts, shape=size).at[starts].max(numbers, mode="drop")
    word = lax.cummax(marks)
    rank = jnp.arange(size, dtype=index) - starts[word]
    return word * _BITS + _bit(words[word], rank).astype(index)


def _bit(word: jax.Array, rank: jax.Array) -> jax.Array:
    """Returns the number of the bit of ``word`` with ``rank`` set bits below it."""
    rank, bit = rank.astype(jnp.uint32), jnp.zeros_like(word)
    for width in (16, 8, 4, 2, 1):
        # Skip the lower half of the bits left if it has too few set ones.
        count = lax.population_count((word >> bit) & jnp.uint32((1 << width) - 1))
        skip = rank >= count
        rank = jnp.where(skip, rank - count, rank)
        bit = jnp.where(skip, bit + jnp.uint32(width), bit)
    return bit

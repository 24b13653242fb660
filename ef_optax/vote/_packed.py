"""Votes as bits: to the worker that counts a shard of them, and its result to all."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ef_optax._numerics import concrete, flag_of, varying_axes
from ef_optax._packing import pack_bits, pack_planes, packed_size, unpack_bits
from ef_optax.vote._tally import at_least, count
from ef_optax.workers import Workers


class Rule(NamedTuple):
    """What a packed vote must know of the rule.

    A vote that may be 0 takes a second bit on the way there. ``fair(leaf)`` gives the
    bits of an even split that is random, the same on all workers.
    """

    may_abstain: bool
    tie: str
    quorum: Any
    fair: Callable[[int], jax.Array]

    def may_be_zero(self, workers: int) -> bool:
        """Whether a result may be 0, which takes a second bit on the way back."""
        if concrete(self.quorum) != 0:
            return True
        return self.tie == "zero" and (self.may_abstain or workers % 2 == 0)


def packed_vote(
    votes: list[jax.Array], leaves: list[jax.Array], rule: Rule, workers: Workers
) -> tuple[list[jax.Array], jax.Array]:
    """Returns the outcome of a vote in -1, 0, 1, and whether all workers were finite.

    `votes` are this worker's votes on every leaf, in -1, 0, 1; `leaves` its gradient.
    """
    size = workers.size
    # A buffer for each set of other mesh axes that split leaves: in one, all of them
    # would be typed as split.
    kinds: dict[frozenset[str], list[int]] = {}
    for i, vote in enumerate(votes):
        kinds.setdefault(varying_axes(vote), []).append(i)
    up, finite = [], jnp.array(True)
    for kind in kinds.values():
        own = [votes[i] for i in kind], [leaves[i] for i in kind]
        planes, fine = _planes(*own, rule, size)
        up.append(planes)
        finite = finite & fine
    flags = jnp.broadcast_to(flag_of(workers.agreed(finite), jnp.uint8), (size,))
    received, flags = workers.all_to_all((up, flags))

    # From here on as the one who counts a shard: the same bytes of all workers.
    down = [
        _counted(planes, kind, rule, workers)
        for planes, kind in zip(received, kinds.values(), strict=True)
    ]
    # The flags cross again, so that what all know is also typed the same for all.
    down, flags = workers.all_gather((down, jnp.max(flags)))
    results: list[Any] = [None] * len(votes)
    for planes, kind in zip(down, kinds.values(), strict=True):
        bits = [_unpack(p, [votes[i].shape for i in kind]) for p in planes]
        for i, positive, *moved in zip(kind, *bits, strict=True):
            result = jnp.where(positive, 1, -1).astype(jnp.int8)
            results[i] = jnp.where(moved[0], result, 0) if moved else result
    return results, jnp.all(flags == 0)


def _planes(
    votes: list[jax.Array], leaves: list[jax.Array], rule: Rule, size: int
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Returns votes as bits in rows, and whether the gradient is finite.

    Bits tell where a vote is positive and, if one may abstain, where it is not 0.
    """
    packed = [
        pack_planes((v > 0, v != 0) if rule.may_abstain else (v > 0,), ~jnp.isfinite(g))
        for v, g in zip(votes, leaves, strict=True)
    ]
    planes = tuple(_rows(list(plane), size)
                   for plane in zip(*(p for p, _ in packed), strict=True))
    marked = _rows([m for _, m in packed], 1)
    return planes, ~jnp.any(marked > 0)


def _counted(
    received: tuple[jax.Array, ...], kind: list[int], rule: Rule, workers: Workers
) -> tuple[jax.Array, ...]:
    """Returns the bits of the result of one shard, and of where it is not 0."""
    size = workers.size
    if rule.may_abstain:
        # Yes and not-no, both counted: one for an abstention, so that the count of
        # 2M planes is the sum of the votes plus M.
        yes, moved = received
        planes, step = jnp.concatenate([yes, yes | ~moved]), 1
    else:
        # One more yes is one no less: the count is half the sum plus M.
        planes, step = received[0], 2
    digits = count(planes, 2 * planes.shape[0])

    def sum_at_least(least: Any) -> jax.Array:
        bound = jnp.ceil((size + jnp.asarray(least, jnp.float32)) / step)
        return at_least(digits, bound.astype(jnp.int32))

    # A quorum beyond all workers moves nothing, however large it is.
    needed = jnp.clip(jnp.ceil(jnp.asarray(rule.quorum, jnp.float32)), 1, size + 1)
    yes = sum_at_least(needed)
    no = ~sum_at_least(1 - needed)
    tied = sum_at_least(0) & ~sum_at_least(1)
    # A sum of 0 is below any quorum but 0.
    tied = jnp.where(jnp.asarray(rule.quorum) > 0, jnp.zeros_like(tied), tied)
    if rule.tie == "positive":
        yes = yes | tied
    elif rule.tie == "random":
        fair = _rows([pack_bits(rule.fair(i)) for i in kind], size)
        mine = lax.dynamic_index_in_dim(fair, workers.index, keepdims=False)
        yes, no = yes | (tied & mine), no | (tied & ~mine)

    return (yes, yes | no) if rule.may_be_zero(size) else (yes,)


def _rows(packed: list[jax.Array], size: int) -> jax.Array:
    """Joins packed leaves to one row of bytes for each worker."""
    flat = jnp.concatenate([jnp.zeros((0,), jnp.uint8), *packed])
    return jnp.pad(flat, (0, -flat.size % size)).reshape(size, -1)


def _unpack(rows: jax.Array, shapes: list[tuple[int, ...]]) -> list[jax.Array]:
    """Returns as booleans the leaves that `_rows` joined."""
    flat, start, out = rows.reshape(-1), 0, []
    for shape in shapes:
        stop = start + packed_size(math.prod(shape))
        out.append(unpack_bits(lax.slice_in_dim(flat, start, stop), shape))
        start = stop
    return out

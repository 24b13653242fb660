"""One bit a coordinate: the sign, and the sign scaled by the mean magnitude."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import check_choice, check_count
from ef_optax._keys import KeyState, as_key, init_keys, leaf_key, next_keys
from ef_optax._numerics import abs_sum, size_of, sizes, wide, within
from ef_optax._packing import pack_bits, unpack_bits
from ef_optax.compressors._base import Compressor, Template
from ef_optax.workers import Workers

Zero = Literal["zero", "positive", "random"] | None


def sign(zero: Zero = None, *, key: Any = None) -> Compressor:
    r"""The sign of every coordinate, one bit each.

    .. math:: C(x)_i = \operatorname{sign}(x_i)

    The sign forgets all magnitudes and neither contracts nor is it unbiased: under
    error feedback its error may grow without bound, and
    :func:`ef_optax.error_feedback` warns. Use :func:`ef_optax.scaled_sign` there. A
    vote of signs is :func:`ef_optax.majority_vote`.

    Args:
      zero: what the sign of 0 is: "zero" (which takes two bits a coordinate when it
        crosses), "positive", or "random", a fair sign. None means "zero" for one
        worker and "positive" where a message crosses.
      key: an int or a JAX key for ``zero="random"``, the same on all workers; each
        worker draws its own.

    Returns:
      A :class:`ef_optax.Compressor`.

    Raises:
      ValueError: if `zero` is unknown, or "random" without a key.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.sign()
      >>> x = jnp.array([0.5, -2.0, 0.0])
      >>> print(tx.update(x, tx.init(x))[0])
      [ 1. -1.  0.]

    References:
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, Algorithm 1
    """
    return _signs(
        f"sign(zero={zero!r})", zero, key,
        scales=lambda leaves: [jnp.ones((), wide(x.dtype)) for x in leaves],
        sent_scale=False,
    )


def scaled_sign(
    per: Literal["leaf", "tree"] | int = "leaf", zero: Zero = None, *, key: Any = None
) -> Compressor:
    r"""The sign scaled by the mean magnitude.

    .. math:: C(x) = \frac{\|x\|_1}{d}\, \operatorname{sign}(x)

    It contracts with :math:`\delta = \phi(x) = \|x\|_1^2 / (d \|x\|_2^2) \ge 1/d`, the
    density of what it compresses (:func:`ef_optax.density`).

    Args:
      per: what shares one scale: "leaf", "tree", or blocks of this many coordinates of
        a flattened leaf, the last of which may be shorter.
      zero, key: as for :func:`ef_optax.sign`. With the default, a coordinate whose
        gradient is always 0 jitters by the scale once messages cross, which is a reason
        to exempt it.

    Returns:
      A :class:`ef_optax.Compressor`.

    Raises:
      ValueError: if `per` or `zero` is unknown, or "random" comes without a key.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.scaled_sign()
      >>> x = jnp.array([0.5, -2.0, 0.5])
      >>> print(tx.update(x, tx.init(x))[0])
      [ 1. -1.  1.]

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Lemma 8
    """
    if isinstance(per, str):
        check_choice("per", per, ("leaf", "tree"))
    else:
        per = check_count("per, the size of a block,", per)

    def scales(leaves: list[jax.Array]) -> list[jax.Array]:
        if per == "leaf":
            return [abs_sum(x) / max(x.size, 1) for x in leaves]
        if per == "tree":
            total = within(sum(map(abs_sum, leaves), jnp.zeros((), jnp.float32)))
            mean = total / max(sum(x.size for x in leaves), 1)
            return [jnp.asarray(mean, wide(x.dtype)) for x in leaves]
        return [_block_means(x, per) for x in leaves]

    def contraction(params: Any) -> float:
        if per == "leaf":
            return 1.0 / max(sizes(params))
        if per == "tree":
            return 1.0 / max(sum(size_of(x) for x in jax.tree.leaves(params)), 1)
        return 1.0 / min(per, max(sizes(params)))

    return _signs(
        f"scaled_sign(per={per!r}, zero={zero!r})", zero, key, scales=scales,
        sent_scale="tree" if per == "tree" else True,
        block=per if isinstance(per, int) else None, contraction=contraction,
    )


def _block_means(x: jax.Array, block: int) -> jax.Array:
    """Returns the mean magnitude of every block of a flattened leaf."""
    block = min(block, max(x.size, 1))
    flat = jnp.abs(x.astype(wide(x.dtype))).reshape(-1)
    rows = jnp.pad(flat, (0, -x.size % block)).reshape(-1, block)
    lengths = jnp.minimum(block, x.size - block * jnp.arange(rows.shape[0]))
    return within(jnp.sum(rows, axis=1)) / lengths.astype(rows.dtype)


def _spread(scale: jax.Array, shape: tuple[int, ...], block: int | None) -> jax.Array:
    """Returns the scale of every coordinate, or the one of all."""
    size = math.prod(shape)
    if block is None or size == 0:
        return scale if block is None else jnp.zeros(shape, scale.dtype)
    rows = jnp.broadcast_to(scale[:, None], (scale.size, min(block, size)))
    return rows.reshape(-1)[:size].reshape(shape)


def _signed(
    positive: jax.Array, zero: jax.Array | None, scale: jax.Array, block: int | None
) -> jax.Array:
    """Returns ±scale, or 0 where `zero`. Selected, so that no product is rounded."""
    up = _spread(scale, positive.shape, block)
    out = jnp.where(positive, up, -up)
    return out if zero is None else jnp.where(zero, jnp.zeros_like(up), out)


def _signs(
    name: str, zero: Zero, key: Any, *,
    scales: Callable[[list[jax.Array]], list[jax.Array]],
    sent_scale: bool | str, block: int | None = None,
    contraction: Callable[[Any], float] | None = None,
) -> Compressor:
    """Returns the compressor of ±scale; a scale is sent per leaf, per tree or never."""
    check_choice("zero", zero, (None, "zero", "positive", "random"))
    if zero == "random":
        as_key("zero='random'", key)  # refuses a bad key here, not in init

    def init(params: Any) -> Any:
        return init_keys("key", key) if zero == "random" else optax.EmptyState()

    def planes(leaves: list[jax.Array], state: Any, workers: Workers) -> list[Any]:
        """Returns for every leaf where the sign is positive, and where it is 0."""
        if zero == "zero" or (zero is None and workers.is_one):
            return [(x > 0, x == 0) for x in leaves]
        if zero != "random":
            return [(x >= 0, None) for x in leaves]
        index = None if workers.is_one else workers.index
        fair = [
            jax.random.bernoulli(leaf_key(state, i, index), shape=x.shape)
            for i, x in enumerate(leaves)
        ]
        pairs = zip(leaves, fair, strict=True)
        return [((x > 0) | ((x == 0) & f), None) for x, f in pairs]

    def following(state: Any) -> Any:
        return next_keys(state) if isinstance(state, KeyState) else state

    def encode(updates: Any, state: Any, workers: Workers) -> Any:
        leaves = jax.tree.leaves(updates)
        bits = tuple(
            tuple(pack_bits(p) for p in pair if p is not None)
            for pair in planes(leaves, state, workers)
        )
        means = tuple(scales(leaves)) if sent_scale else ()
        # One scale for the tree crosses once; in the widest dtype, to lose nothing.
        if sent_scale == "tree" and means:
            means = (max(means, key=lambda m: m.dtype.itemsize),)
        return (bits, means), Template.of(updates), following(state)

    def leaf_scale(means: Any, i: int, dtype: Any) -> jax.Array:
        if not sent_scale:
            return jnp.ones((), wide(dtype))
        return means[0 if sent_scale == "tree" else i].astype(wide(dtype))

    def decode(message: Any, template: Template) -> Any:
        bits, means = message
        out = []
        leaves = zip(bits, template.shapes, template.dtypes, strict=True)
        for i, (pair, shape, dtype) in enumerate(leaves):
            positive, *none = (unpack_bits(p, shape) for p in pair)
            scale = leaf_scale(means, i, dtype)
            out.append(_signed(positive, none[0] if none else None, scale, block))
        return template.unflatten(out)

    def roundtrip(updates: Any, state: Any) -> Any:
        leaves, treedef = jax.tree.flatten(updates)
        signs = planes(leaves, state, Workers(None))
        out = [
            _signed(up, none, scale, block).astype(x.dtype)
            for (up, none), scale, x in zip(signs, scales(leaves), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, out), following(state)

    return Compressor(
        name, init=init, encode=encode, decode=decode, roundtrip=roundtrip,
        contraction=contraction,
    )

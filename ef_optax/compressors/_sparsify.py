"""Some coordinates and not the rest: the largest, or random ones."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ef_optax import _select
from ef_optax._checks import check_choice, check_count
from ef_optax._keys import as_key, init_keys, leaf_key, next_keys
from ef_optax._numerics import size_of, sizes
from ef_optax._packing import index_dtype
from ef_optax.compressors._base import Compressor, Template
from ef_optax.workers import Workers


def _kept(size: int, k: int | None, fraction: Fraction | None) -> int:
    """Returns how many of `size` coordinates are kept: never more, at least one."""
    if fraction is not None:
        k = max(1, math.ceil(fraction * size))
    assert k is not None
    return min(k, size)


def _amount(k: Any, fraction: Any) -> tuple[int | None, Fraction | None]:
    """Returns the one of k and fraction that was given, as an exact number."""
    if (k is None) == (fraction is None):
        raise ValueError(
            f"Give one of k and fraction; got k={k!r} and fraction={fraction!r}."
        )
    if k is not None:
        return check_count("k", k), None
    # In the decimal that was written: 0.07 of 100 is 7, in binary it is 8.
    exact = Fraction(str(fraction))
    if not 0 < exact <= 1:
        raise ValueError(f"fraction must be in (0, 1]; got {fraction!r}.")
    return None, exact


def _scattered(values: jax.Array, indices: jax.Array, size: int) -> jax.Array:
    """Returns a vector of zeros with the values at their indices."""
    return jnp.zeros((size,), values.dtype).at[indices].set(
        values, unique_indices=True, mode="promise_in_bounds"
    )


def top_k(
    k: int | None = None, fraction: float | None = None,
    per: Literal["leaf", "tree"] = "leaf",
) -> Compressor:
    r"""The k coordinates of the largest magnitude.

    .. math::
      C(x)_i = \begin{cases} x_i & |x_i| \text{ among the } k \text{ largest},\\
        0 & \text{otherwise} \end{cases}
      \qquad \delta = k/d

    Values cross with their positions in the smallest unsigned integers that hold them;
    a leaf that is kept whole crosses without positions. Of equal magnitudes any may be
    kept, the same on every run.

    Args:
      k: how many coordinates to keep; a leaf with fewer is kept whole.
      fraction: which part of the coordinates to keep instead, in (0, 1]:
        :math:`k = \max(1, \lceil fraction \cdot d \rceil)`.
      per: whether k counts for each "leaf" or for the whole "tree".

    Returns:
      A :class:`ef_optax.Compressor`.

    Raises:
      ValueError: if not exactly one of k and fraction is given, or it is out of range.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.top_k(k=2)
      >>> x = jnp.array([0.5, -2.0, 0.0, 1.0])
      >>> print(tx.update(x, tx.init(x))[0])
      [ 0. -2.  0.  1.]

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Remark 7;
      `Stich et al., 2018 <https://arxiv.org/abs/1809.07599>`_
    """
    amount = f"k={k}" if k is not None else f"fraction={fraction!s}"
    k, part = _amount(k, fraction)
    check_choice("per", per, ("leaf", "tree"))

    def encode_flat(flat: jax.Array) -> tuple[jax.Array, ...]:
        kept = _kept(flat.size, k, part)
        if kept == flat.size:
            return (flat,)
        indices = _select.largest(flat, kept, _select.magnitude_bits)
        return flat[indices], indices.astype(index_dtype(flat.size))

    def decode_flat(message: Any, size: int) -> jax.Array:
        values, *rest = message
        return _scattered(values, rest[0].astype(jnp.int32), size) if rest else values

    def sum_flat(messages: Any, size: int) -> jax.Array:
        values, *rest = messages
        if not rest:
            return jnp.sum(values, axis=0)
        return jnp.zeros((size,), values.dtype).at[
            rest[0].astype(jnp.int32).reshape(-1)
        ].add(values.reshape(-1), mode="promise_in_bounds")

    def encode(updates: Any, state: Any, workers: Workers) -> Any:
        flats = [x.reshape(-1) for x in jax.tree.leaves(updates)]
        if per == "tree" and flats:
            flats = [jnp.concatenate(flats)]
        return tuple(map(encode_flat, flats)), Template.of(updates), state

    def by_flat(function: Callable[[Any, int], jax.Array]) -> Callable[..., Any]:
        def decode(message: Any, template: Template) -> Any:
            counts = [math.prod(shape) for shape in template.shapes]
            if per == "leaf" or not counts:
                return template.unflatten(list(map(function, message, counts)))
            flat, out, start = function(message[0], sum(counts)), [], 0
            for count in counts:
                out.append(flat[start:start + count])
                start += count
            return template.unflatten(out)

        return decode

    def contraction(params: Any) -> float:
        if per == "leaf":
            return min(_kept(n, k, part) / n for n in sizes(params))
        total = max(sum(map(size_of, jax.tree.leaves(params))), 1)
        return _kept(total, k, part) / total

    return Compressor(
        f"top_k({amount}, per={per!r})", encode=encode, decode=by_flat(decode_flat),
        decode_sum=by_flat(sum_flat), contraction=contraction,
    )


def random_k(
    k: int | None = None, fraction: float | None = None, key: Any = 0,
    scaled: bool = False,
) -> Compressor:
    r"""Random coordinates of every leaf, k of them, the same on all workers.

    .. math::
      C(x)_i = \begin{cases} s\, x_i & i \in S, \\ 0 & i \notin S \end{cases}
      \qquad S \subset \{1,\dots,d\}, |S| = k \text{ uniform}

    With :math:`s = 1` it contracts, :math:`E\|C(x)-x\|^2 = (1-k/d)\|x\|^2`. Scaled,
    :math:`s = d/k` makes it unbiased with variance :math:`\omega = d/k - 1`; error
    feedback then uses :math:`C/(1+\omega)`, which is the unscaled one. Every worker
    draws the same coordinates from the shared key, so only values cross and messages
    add.

    Args:
      k, fraction: how many coordinates of a leaf to keep, see :func:`ef_optax.top_k`.
      key: an int or a JAX key, the same on all workers.
      scaled: whether to multiply what is kept by d/k.

    Returns:
      A :class:`ef_optax.Compressor`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.random_k(k=1, key=0, scaled=True)
      >>> x = jnp.ones(4)
      >>> print(jnp.sort(tx.update(x, tx.init(x))[0]))
      [0. 0. 0. 4.]

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Remark 5
    """
    amount = f"k={k}" if k is not None else f"fraction={fraction!s}"
    k, part = _amount(k, fraction)
    as_key("key", key)  # refuses a bad key here, not in init

    def encode(updates: Any, state: Any, workers: Workers) -> Any:
        message: list[jax.Array] = []
        indices: list[jax.Array | None] = []
        for i, x in enumerate(jax.tree.leaves(updates)):
            kept = _kept(x.size, k, part)
            if kept == x.size:
                message.append(x.reshape(-1))
                indices.append(None)
                continue
            # The k largest of random numbers are a uniform choice, up to ties.
            uniform = jax.random.uniform(leaf_key(state, i), (x.size,), jnp.float32)
            chosen = _select.largest(uniform, kept, _select.magnitude_bits)
            message.append(x.reshape(-1)[chosen])
            indices.append(chosen)
        return tuple(message), (Template.of(updates), tuple(indices)), next_keys(state)

    def decode(message: Any, shared: Any) -> Any:
        template, indices = shared
        out = []
        parts = zip(message, indices, template.shapes, strict=True)
        for values, chosen, shape in parts:
            if chosen is None:
                out.append(values)
                continue
            size = math.prod(shape)
            if scaled:
                values = values * jnp.asarray(size / values.size, values.dtype)
            out.append(_scattered(values, chosen, size))
        return template.unflatten(out)

    def smallest_part(params: Any) -> float:
        return min(_kept(n, k, part) / n for n in sizes(params))

    return Compressor(
        f"random_k({amount}, scaled={scaled})",
        init=lambda params: init_keys("key", key), encode=encode, decode=decode,
        additive=True,
        contraction=None if scaled else smallest_part,
        variance=(lambda params: 1 / smallest_part(params) - 1) if scaled else None,
        contractive=random_k(k, fraction, key, scaled=False) if scaled else None,
    )

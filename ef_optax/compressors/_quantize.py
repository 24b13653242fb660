"""Fewer bits for each coordinate: none fewer, a narrower float, a random sign."""

from typing import Any

import jax
import jax.numpy as jnp

from ef_optax._keys import as_key, init_keys, leaf_key, next_keys
from ef_optax._numerics import norm2, sizes, wide
from ef_optax._packing import pack_bits, unpack_bits
from ef_optax.compressors._base import Compressor, Template, leafwise
from ef_optax.workers import Workers


def identity() -> Compressor:
    r"""Everything, as it is.

    .. math:: C(x) = x, \qquad \delta = 1

    For one worker it is :func:`optax.identity`, but refuses integer leaves and gives
    NaN everywhere for a non-finite input. With workers,
    ``compress(identity(), axis_name=...)`` is the mean of the gradients in full
    precision, and ``ef_sgd(learning_rate, identity())`` is SGD.

    Returns:
      A :class:`ef_optax.Compressor`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.identity()
      >>> x = jnp.array([0.5, -2.0])
      >>> print(tx.update(x, tx.init(x))[0])
      [ 0.5 -2. ]

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Assumption A
    """
    return leafwise(
        "identity()", lambda x: (x, ()), lambda message, shared, shape, dtype: message,
        roundtrip_leaf=lambda x: x, additive=True, contraction=lambda params: 1.0,
    )


def cast(dtype: Any) -> Compressor:
    r"""A narrower floating-point dtype, rounded to nearest.

    .. math:: C(x) = \operatorname{round}(x), \qquad \delta = 1 - u^2

    where :math:`u` is half the distance from 1 to the next number of `dtype`. That
    holds in the range where the dtype has its full precision; below it, values go
    towards 0, and above the largest finite value they stay there, so that error
    feedback sends the rest later. Messages of 16 bits or fewer don't hold a sum: they
    are gathered, and added up in the dtype of what was compressed.

    Args:
      dtype: a floating-point dtype, such as ``jnp.bfloat16``, ``jnp.float16`` or
        ``jnp.float8_e4m3fn``.

    Returns:
      A :class:`ef_optax.Compressor`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.cast(jnp.bfloat16)
      >>> x = jnp.array([1.001, 2.0])
      >>> print(tx.update(x, tx.init(x))[0])
      [1. 2.]

    References:
      Higham, Accuracy and Stability of Numerical Algorithms, 2002, Theorem 2.2
    """
    target = jnp.dtype(dtype)
    info = jnp.finfo(target)  # refuses integers

    def narrow(x: jax.Array) -> jax.Array:
        if float(info.max) < float(jnp.finfo(x.dtype).max):
            # In float32: a 16-bit dtype may round the limit beyond the limit.
            x = jnp.clip(x.astype(wide(x.dtype)), float(info.min), float(info.max))
        return x.astype(target)

    return leafwise(
        f"cast({target.name})",
        lambda x: (narrow(x), ()),
        lambda message, shared, shape, dtype: message.astype(dtype),
        sum_leaf=lambda messages, shared, shape, dtype: jnp.sum(
            messages.astype(dtype), axis=0
        ),
        additive=target.itemsize >= 4,
        contraction=lambda params: 1.0 - (float(info.eps) / 2) ** 2,
    )


def stochastic_sign(key: Any = 0) -> Compressor:
    r"""A random sign of the right mean, scaled by the norm.

    .. math::
      C(x)_i = \|x\|_2 \cdot \begin{cases}
        +1 & \text{with probability } \tfrac12 + \frac{x_i}{2\|x\|_2},\\
        -1 & \text{otherwise} \end{cases}

    It is unbiased, with :math:`E\|C(x)-x\|^2 = (d-1)\|x\|^2` for every leaf, so
    :math:`\omega = d - 1`; error feedback uses :math:`C/d`, leaf by leaf. A leaf of
    zeros gives zeros, a zero coordinate of another leaf a fair sign.

    Args:
      key: an int or a JAX key, the same on all workers; each draws its own signs.

    Returns:
      A :class:`ef_optax.Compressor`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.stochastic_sign(key=0)
      >>> x = jnp.array([3.0, -4.0])
      >>> print(jnp.abs(tx.update(x, tx.init(x))[0]))
      [5. 5.]

    References:
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Appendix E
    """
    return _stochastic_sign(key, damped=False)


def _stochastic_sign(key: Any, damped: bool) -> Compressor:
    as_key("key", key)  # refuses a bad key here, not in init

    def encode(updates: Any, state: Any, workers: Workers) -> Any:
        index = None if workers.is_one else workers.index
        bits, scales = [], []
        for i, x in enumerate(jax.tree.leaves(updates)):
            norm = norm2(x)
            unit = x.astype(norm.dtype) / jnp.where(norm > 0, norm, 1)
            uniform = jax.random.uniform(
                leaf_key(state, i, index), x.shape, norm.dtype, -1.0, 1.0
            )
            bits.append(pack_bits(uniform < unit))
            scales.append(norm / max(x.size, 1) if damped else norm)
        return (tuple(bits), tuple(scales)), Template.of(updates), next_keys(state)

    def decode(message: Any, template: Template) -> Any:
        out = []
        leaves = zip(*message, template.shapes, template.dtypes, strict=True)
        for bits, scale, shape, dtype in leaves:
            positive = unpack_bits(bits, shape)
            out.append(jnp.where(positive, scale, -scale).astype(wide(dtype)))
        return template.unflatten(out)

    return Compressor(
        "stochastic_sign()/d" if damped else "stochastic_sign()",
        init=lambda params: init_keys("key", key), encode=encode, decode=decode,
        contraction=(lambda params: 1 / max(sizes(params))) if damped else None,
        variance=None if damped else (lambda params: max(sizes(params)) - 1.0),
        contractive=None if damped else _stochastic_sign(key, damped=True),
    )

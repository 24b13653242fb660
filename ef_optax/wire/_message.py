"""What one message of a compressor costs, from the shapes alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ef_optax._numerics import leaf_dtype, wide
from ef_optax.compressors import Compressor
from ef_optax.workers import Workers

_AXIS = "ef_optax.message_bits"


def message_bits(compressor: Compressor, params: Any) -> int:
    r"""Counts the bits of one worker's message; to compare compressors by their size.

    Nothing runs, and no mesh is needed: the message is encoded for one of several
    workers in shapes only. How often it is sent depends on the exchange: a ring
    all-reduce of :math:`M` workers sends it :math:`2 (M-1)/M` times, so does
    :func:`ef_optax.two_way`; :func:`ef_optax.gather` sends it :math:`M - 1` times.
    :func:`ef_optax.wire_report` reads that from a compiled program.

    Args:
      compressor: a :class:`ef_optax.Compressor`.
      params: a pytree of arrays or :class:`jax.ShapeDtypeStruct`, as the parameters.

    Returns:
      Bits, an int, in the arrays and dtypes that are sent. The flag for values that
      are not finite, 8 to 32 bits for the whole tree, is not counted.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> params = {"w": jnp.zeros((100, 10)), "b": jnp.zeros(10)}
      >>> ef_optax.message_bits(ef_optax.identity(), params)
      32320
      >>> ef_optax.message_bits(ef_optax.scaled_sign(), params)  # bytes, and 2 scales
      1080
    """

    def encode(_: Any) -> Any:
        updates = jax.tree.map(
            lambda x: jnp.zeros(jnp.shape(x), wide(leaf_dtype(x))), params
        )
        return compressor.encode(updates, compressor.init(params), Workers(_AXIS))[0]

    message = jax.eval_shape(jax.vmap(encode, axis_name=_AXIS, axis_size=2),
                             jax.ShapeDtypeStruct((2,), jnp.float32))
    return sum(4 * x.size * x.dtype.itemsize for x in jax.tree.leaves(message))

"""What one message of a compressor costs, from the shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp

from ef_optax._numerics import leaf_dtype, wide
from ef_optax.compressors import Compressor, identity
from ef_optax.feedback import Exempt
from ef_optax.workers import Workers

_AXIS = "ef_optax.message_bits"


def message_bits(compressor: Compressor | Exempt, params: Any) -> int:
    r"""Counts the bits of one worker's message; to compare compressors by their size.

    Nothing runs, and no mesh is needed: the message is encoded for one of several
    workers in shapes only. How often it is sent depends on the exchange: a ring
    all-reduce of :math:`M` workers sends it :math:`2 (M-1)/M` times, so does
    :func:`ef_optax.two_way`; :func:`ef_optax.gather` sends it :math:`M - 1` times.
    :func:`ef_optax.wire_report` reads that from a compiled program.
    The flag for values that are not finite, 8 to 32 bits for the tree, is not counted.

    Args:
      compressor: a :class:`ef_optax.Compressor`, or one with :func:`ef_optax.exempt`
        leaves, which are sent in float32 by an all-reduce of their own.
      params: a pytree of arrays or :class:`jax.ShapeDtypeStruct`, as the parameters.

    Returns:
      The number of bits, an int.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> params = {"w": jnp.zeros((100, 10)), "b": jnp.zeros(10)}
      >>> ef_optax.message_bits(ef_optax.identity(), params)
      32320
      >>> ef_optax.message_bits(ef_optax.scaled_sign(), params)  # bytes, and 2 scales
      1080
    """
    if isinstance(compressor, Exempt):
        mask = compressor.mask_of(params)
        rest = jax.tree.map(lambda m, x: None if m else x, mask, params)
        own = jax.tree.map(lambda m, x: x if m else None, mask, params)
        return message_bits(compressor.compressor, rest) + message_bits(identity(), own)

    def encode(_: Any) -> Any:
        updates = jax.tree.map(
            lambda x: jnp.zeros(jnp.shape(x), wide(leaf_dtype(x))), params
        )
        return compressor.encode(updates, compressor.init(params), Workers(_AXIS))[0]

    message = jax.eval_shape(jax.vmap(encode, axis_name=_AXIS, axis_size=2),
                             jax.ShapeDtypeStruct((2,), jnp.float32))
    return sum(4 * x.size * x.dtype.itemsize for x in jax.tree.leaves(message))

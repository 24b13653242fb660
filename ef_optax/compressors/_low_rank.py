"""A few directions of a matrix: its best approximation of rank k."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ef_optax._checks import check_count
from ef_optax._numerics import wide
from ef_optax.compressors._base import Compressor, leafwise


def k_pca(rank: int) -> Compressor:
    r"""The best approximation of rank k to a matrix, by singular values.

    .. math::
      C(A) = \sum_{i=1}^{k} \sigma_i u_i v_i^\top, \qquad \delta = k / \min(n, m)

    A leaf with more than two axes is seen as the matrix of its last axis against all
    others, so a convolution kernel in Flax's layout (height, width, in, out) is the
    matrix of its output channels. Vectors and scalars go raw. What crosses is the
    smaller of the two factors and the product.

    The decomposition is exact and costs :math:`O(nm\min(n,m))`: a reference to compare
    cheaper methods with.

    Args:
      rank: k, at least 1; a matrix of smaller rank goes raw.

    Returns:
      A :class:`ef_optax.Compressor`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.k_pca(rank=1)
      >>> x = jnp.diag(jnp.array([3.0, 1.0]))
      >>> print(jnp.abs(tx.update(x, tx.init(x))[0]).round(2))
      [[3. 0.]
       [0. 0.]]

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Section 4.1
    """
    rank = check_count("rank", rank)

    def matrix_of(shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Returns the shape of the matrix that a leaf is seen as; None if it is raw."""
        if len(shape) < 2:
            return None
        matrix = math.prod(shape[:-1]), shape[-1]
        return matrix if rank < min(matrix) else None

    def encode_leaf(x: jax.Array) -> tuple[Any, Any]:
        shape = matrix_of(x.shape)
        if shape is None:
            return (x,), ()
        matrix = x.astype(wide(x.dtype)).reshape(shape)
        # LAPACK never returns from an infinity; what comes of it is not used.
        matrix = jnp.where(jnp.isfinite(matrix), matrix, 0)
        u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
        left, right = u[:, :rank] * s[:rank], vt[:rank]
        factored = rank * sum(shape) < math.prod(shape)
        return ((left, right) if factored else (left @ right,)), ()

    def decode_leaf(message: Any, shared: Any, shape: Any, dtype: Any) -> jax.Array:
        return message[0] if len(message) == 1 else _product(*message)

    def sum_leaf(messages: Any, shared: Any, shape: Any, dtype: Any) -> jax.Array:
        if len(messages) == 1:
            return jnp.sum(messages[0], axis=0)
        # Σ L_i R_i is one product of the factors side by side.
        left, right = messages
        side_by_side = jnp.moveaxis(left, 0, 1).reshape(left.shape[1], -1)
        return _product(side_by_side, right.reshape(-1, right.shape[-1]))

    def contraction(params: Any) -> float:
        shapes = [matrix_of(x.shape) for x in jax.tree.leaves(params)]
        parts = [rank / min(shape) for shape in shapes if shape]
        return min(parts, default=1.0)

    return leafwise(
        f"k_pca(rank={rank})", encode_leaf, decode_leaf, sum_leaf=sum_leaf,
        contraction=contraction, splittable=False,
    )


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    # In full precision: accelerators round the inputs of a product otherwise.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)

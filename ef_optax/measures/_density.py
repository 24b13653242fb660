"""Density of a vector: how evenly its magnitude is spread over its coordinates."""

import jax
import jax.numpy as jnp
import optax

from ef_optax.measures import _leaves


def density(tree: optax.Updates) -> jax.Array:
    r"""Density of a pytree, all its leaves taken as one vector.

    .. math::

      \phi(v) = \frac{\|v\|_1^2}{d\, \|v\|_2^2}
      \in \left[\tfrac{1}{d},\, 1\right]

    It is 1 when all coordinates have the same magnitude, 1/d when one alone is
    non-zero, and near 2/π for Gaussian entries. A scaled sign has contraction
    φ(v) exactly, as long as v has no zeros or sign(0) = ±1.

    Args:
      tree: pytree of floating-point arrays of any shape. ``None`` and
        ``optax.MaskedNode`` are skipped, and zero-size leaves add nothing. Sums are
        made in float32 (float64 for float64 leaves) after division by the largest
        magnitude, so entries near 1e30 or 1e-30 are safe.

    Returns:
      Scalar, float32 (float64 if a leaf is). A zero vector, which has no density,
      gives 0, below every density there is; so does a tree without coordinates.
      Infinite or NaN entries give NaN.

    Raises:
      ValueError: a leaf is not floating point.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> v = {'w': jnp.array([3., 0.]), 'b': jnp.array([4.])}
      >>> print(f'{measures.density(v):.4f}')
      0.6533

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, equation (1).

      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient
      Compression Schemes <https://arxiv.org/abs/1901.09847>`_, 2019, Lemma 8.
    """
    return of_leaves(_leaves.float_leaves(tree, "density", "tree"))


def of_leaves(leaves: list[jax.Array]) -> jax.Array:
    """Density of checked leaves."""
    count = _leaves.size(leaves)
    if not count:
        return jnp.zeros((), jnp.float32)
    scale = _leaves.scale_of(leaves)
    scaled = [leaf / scale for leaf in leaves]
    absolute = _leaves.total([jnp.abs(leaf) for leaf in scaled])
    squares = _leaves.total([jnp.square(leaf) for leaf in scaled])
    empty = squares == 0
    # absolute/count first: its square could pass float32 for very large models.
    value = absolute / count * (absolute / jnp.where(empty, 1, squares))
    # Rounding alone can leave the interval that Cauchy-Schwarz gives.
    return jnp.where(empty, 0, jnp.clip(value, 1 / count, 1))

"""Mean and variance over many pytrees, in one pass."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ef_optax.measures import _leaves


class WelfordState(NamedTuple):
    """Running mean and sum of squared deviations."""

    count: jax.Array  # type: ignore[assignment]
    mean: Any
    squares: Any


def welford_init(tree: Any) -> WelfordState:
    """Start the running mean and variance of pytrees like this one.

    .. math::

      n = 0, \\qquad \\mu = 0, \\qquad q = 0

    Args:
      tree: pytree of floating-point arrays or ``jax.ShapeDtypeStruct``; only shapes
        and dtypes are read.

    Returns:
      A ``WelfordState``: an int32 count and two pytrees of zeros of the tree's
      structure, float32 (float64 for float64 leaves).

    Raises:
      ValueError: a leaf is not floating point.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> measures.welford_init(jnp.zeros(2, jnp.bfloat16)).mean.dtype
      dtype('float32')

    References:
      Welford, `Note on a Method for Calculating Corrected Sums of Squares and
      Products <https://doi.org/10.1080/00401706.1962.10490022>`_, 1962.

      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, Figure 1.
    """

    def zeros(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        dtype = _leaves.accumulator(leaf, "welford_init", "tree", name)
        return jnp.zeros_like(leaf, dtype=dtype)

    return WelfordState(
        count=jnp.zeros((), jnp.int32),
        mean=jax.tree_util.tree_map_with_path(zeros, tree),
        squares=jax.tree_util.tree_map_with_path(zeros, tree),
    )


def welford_update(state: WelfordState, tree: Any) -> WelfordState:
    r"""Take one more pytree into the running mean and variance.

    .. math::

      n \leftarrow n + 1, \qquad
      \Delta = g - \mu, \qquad
      \mu \leftarrow \mu + \Delta / n, \qquad
      q \leftarrow q + \Delta\, (g - \mu)

    Deviations are taken from the running mean, so a mean far larger than the spread
    does not cancel. The state keeps its types: usable as a ``jax.lax.scan`` carry.

    Args:
      state: from ``welford_init`` or the last ``welford_update``.
      tree: pytree with the structure and shapes of the one given to
        ``welford_init``, of any floating dtype.

    Returns:
      The new ``WelfordState``.

    Raises:
      ValueError: structure or shapes differ, or a leaf is not floating point.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> state = measures.welford_init(jnp.zeros(2))
      >>> state = measures.welford_update(state, jnp.array([1., 5.]))
      >>> print(state.count, state.mean)
      1 [1. 5.]

    References:
      Welford, `Note on a Method for Calculating Corrected Sums of Squares and
      Products <https://doi.org/10.1080/00401706.1962.10490022>`_, 1962.
    """
    leaves = _leaves.float_leaves(tree, "welford_update", "tree", common=False)
    means, treedef = jax.tree.flatten(state.mean)
    shapes = [mean.shape for mean in means]
    given = [leaf.shape for leaf in leaves]
    if given != shapes or not _leaves.same_structure(tree, state.mean):
        raise ValueError(
            f"welford_update: tree has structure {jax.tree.structure(tree)} and "
            f"shapes {given}; allowed: those of welford_init, "
            f"{treedef} and {shapes}."
        )
    count = state.count + 1
    new_means, new_squares = [], []
    for leaf, mean, squares in zip(
        leaves, means, jax.tree.leaves(state.squares), strict=True
    ):
        leaf = leaf.astype(mean.dtype)
        deviation = leaf - mean
        mean = mean + deviation / count.astype(mean.dtype)
        new_means.append(mean)
        new_squares.append(squares + deviation * (leaf - mean))
    return WelfordState(
        count=count,
        mean=jax.tree.unflatten(treedef, new_means),
        squares=jax.tree.unflatten(treedef, new_squares),
    )


def welford_finalize(state: WelfordState) -> tuple[Any, Any]:
    r"""Mean and unbiased variance of the pytrees taken in so far.

    .. math::

      \bar g = \mu, \qquad \sigma^2 = \frac{q}{n - 1}

    Args:
      state: from ``welford_update``; it can still be updated afterwards.

    Returns:
      Two pytrees ``(mean, variance)`` in the state's dtypes; the square root of the
      second is B's σ. As in NumPy, the variance is NaN for n < 2 and the mean NaN
      for n = 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> state = measures.welford_init(jnp.zeros(2))
      >>> for g in ([1., 5.], [2., 5.], [3., 8.]):
      ...   state = measures.welford_update(state, jnp.array(g))
      >>> mean, variance = measures.welford_finalize(state)
      >>> print(mean, variance)
      [2. 6.] [1. 3.]

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, Figure 1.
    """
    count = state.count
    mean = jax.tree.map(lambda x: jnp.where(count > 0, x, jnp.nan), state.mean)
    variance = jax.tree.map(
        lambda x: jnp.where(
            count > 1, x / jnp.maximum(count - 1, 1).astype(x.dtype), jnp.nan
        ),
        state.squares,
    )
    return mean, variance

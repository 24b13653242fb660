"""Mean and variance of gradients over many batches, in one pass."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ef_optax._checks import check_float_leaves
from ef_optax._numerics import wide


class WelfordState(NamedTuple):
    """Running mean and sum of squared deviations."""

    count: jax.Array  # type: ignore[assignment]
    mean: Any
    squares: Any


def welford_init(tree: Any) -> WelfordState:
    r"""Starts a mean and variance over many pytrees, of which one is held at a time.

    .. math:: n = 0, \qquad \mu = 0, \qquad q = 0

    Args:
      tree: pytree of floating-point arrays or ``jax.ShapeDtypeStruct``; only shapes
        and dtypes are read.

    Returns:
      An int32 count and two pytrees of zeros like the tree, float32 (float64 for
      float64 leaves).

    Examples:
      >>> import jax.numpy as jnp, ef_optax.measures as measures
      >>> measures.welford_init(jnp.zeros(2, jnp.bfloat16)).mean.dtype
      dtype('float32')

    References:
      `Welford, 1962 <https://doi.org/10.1080/00401706.1962.10490022>`_.
    """
    check_float_leaves("welford_init", tree)
    mean = jax.tree.map(lambda x: jnp.zeros_like(x, wide(jnp.result_type(x))), tree)
    squares = jax.tree.map(jnp.zeros_like, mean)
    return WelfordState(jnp.zeros((), jnp.int32), mean, squares)


def welford_update(state: WelfordState, tree: Any) -> WelfordState:
    r"""Takes one more pytree into the running mean and variance.

    .. math:: n \leftarrow n + 1, \quad \Delta = g - \mu, \quad
      \mu \leftarrow \mu + \Delta / n, \quad q \leftarrow q + \Delta\, (g - \mu)

    Deviations are taken from the running mean, so a mean far larger than the spread
    does not cancel. The state keeps its types: usable as a ``jax.lax.scan`` carry.

    Args:
      state: from ``welford_init`` or the last ``welford_update``.
      tree: pytree like the one given to ``welford_init``, of any floating dtype.

    Examples:
      >>> import jax.numpy as jnp, ef_optax.measures as measures
      >>> state = measures.welford_init(jnp.zeros(2))
      >>> state = measures.welford_update(state, jnp.array([1., 5.]))
      >>> print(state.count, state.mean)
      1 [1. 5.]
    """
    check_float_leaves("welford_update", tree)
    count = state.count + 1
    # A reshape, since another shape should fail and not be broadcast.
    g = jax.tree.map(
        lambda m, x: jnp.asarray(x, m.dtype).reshape(m.shape), state.mean, tree
    )
    deviations = jax.tree.map(jnp.subtract, g, state.mean)
    mean = jax.tree.map(
        lambda m, d: m + d / count.astype(m.dtype), state.mean, deviations
    )
    squares = jax.tree.map(
        lambda q, d, x, m: q + d * (x - m), state.squares, deviations, g, mean
    )
    return WelfordState(count, mean, squares)


def welford_finalize(state: WelfordState) -> tuple[Any, Any]:
    r"""Returns mean and unbiased variance of the pytrees taken in so far.

    .. math:: \bar g = \mu, \qquad \sigma^2 = \frac{q}{n - 1}

    Args:
      state: from ``welford_update``; it can still be updated afterwards.

    Returns:
      Two pytrees in the state's dtypes. As in NumPy, the variance is NaN for n < 2 and
      the mean for n = 0.

    Examples:
      >>> import jax.numpy as jnp, ef_optax.measures as measures
      >>> state = measures.welford_init(jnp.zeros(2))
      >>> for g in ([1., 5.], [2., 5.], [3., 8.]):
      ...   state = measures.welford_update(state, jnp.array(g))
      >>> mean, variance = measures.welford_finalize(state)
      >>> print(mean, variance)
      [2. 6.] [1. 3.]

    References:
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, Figure 1.
    """
    n = state.count
    mean = jax.tree.map(lambda m: jnp.where(n > 0, m, jnp.nan), state.mean)
    variance = jax.tree.map(
        lambda q: jnp.where(n > 1, q / jnp.maximum(n - 1, 1).astype(q.dtype), jnp.nan),
        state.squares,
    )
    return mean, variance

"""The weighted sums in which the convergence of sign descent is measured."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ef_optax.measures import _leaves


def rho_norm(g: optax.Updates, rho: Any) -> jax.Array:
    r"""ρ-norm of a gradient: its l1 norm weighted by success probabilities.

    .. math::

      \|g\|_\rho = \sum_i (2\rho_i - 1)\, |g_i|

    It is the expected alignment of g with the stochastic sign, and not a norm:
    where ρ_i < 1/2 a coordinate counts negatively.

    Args:
      g: pytree of floating-point arrays.
      rho: success probabilities in [0, 1]: a scalar, or a pytree of g's structure
        whose leaves have the shapes of g's or are scalars.

    Returns:
      Scalar, float32 (float64 if a leaf of g is), over the whole tree.

    Raises:
      ValueError: a concrete ρ is outside [0, 1], structures or shapes do not match,
        or a leaf is not floating point. Traced values are not checked.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> rho = jnp.array([0.75, 1.0])
      >>> print(measures.rho_norm(jnp.array([-4., 3.]), rho))
      5.0

    References:
      Safaryan and Richtárik, `Stochastic Sign Descent Methods: New Algorithms and
      Better Theory <https://arxiv.org/abs/1905.12938>`_, 2021, Definition 1.
    """
    pairs = _leaves.paired(g, rho, "rho_norm", "rho")
    _leaves.check_range(rho, "rho_norm", "rho", 0, 1)
    return _leaves.total([(2 * chance - 1) * jnp.abs(leaf) for leaf, chance in pairs])


def rho_m_norm(g: optax.Updates, rho: Any, workers: Any) -> jax.Array:
    r"""ρ_M-norm of a gradient: the ρ-norm after a majority vote of M workers.

    .. math::

      \|g\|_{\rho_M} = \sum_i \left(2 I(\rho_i; l, l) - 1\right) |g_i|, \qquad
      l = \left\lfloor \tfrac{M + 1}{2} \right\rfloor

    with I the regularised incomplete beta function. The weight is the mean of
    ``vote * sign(g_i)`` when each worker is right with probability ρ_i,
    independently, and a tie gives 0 (or a fair random sign); so 2l − 1 and 2l
    workers have the same weight, and M = 1 or 2 is the ρ-norm.

    Args:
      g: pytree of floating-point arrays.
      rho: success probabilities of one worker in [0, 1]: a scalar, or a pytree of
        g's structure whose leaves have the shapes of g's or are scalars.
      workers: M ≥ 1, an integer.

    Returns:
      Scalar, float32 (float64 if a leaf of g is), over the whole tree. In float32 a
      weight is off by 1e-6 for tens of workers, by 1e-4 for a thousand.

    Raises:
      ValueError: a concrete ρ is outside [0, 1], ``workers`` is not an integer of
        at least 1, structures or shapes do not match, or a leaf is not floating
        point. Traced values are not checked.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> g = jnp.array([-4., 3.])
      >>> for workers in (1, 3, 4, 31):
      ...   print(f'{measures.rho_m_norm(g, 0.75, workers):.3f}')
      3.500
      4.813
      4.813
      6.982

    References:
      Safaryan and Richtárik, `Stochastic Sign Descent Methods: New Algorithms and
      Better Theory <https://arxiv.org/abs/1905.12938>`_, 2021, Definition 2,
      Lemma 8 and Theorem 3.
    """
    pairs = _leaves.paired(g, rho, "rho_m_norm", "rho")
    _leaves.check_range(rho, "rho_m_norm", "rho", 0, 1)
    if not jnp.issubdtype(jnp.result_type(workers), jnp.integer) or jnp.ndim(workers):
        raise ValueError(
            f"rho_m_norm: workers is {workers!r}; allowed: an integer of at least 1."
        )
    known = _leaves.concrete(workers)
    if known is not None and known < 1:
        raise ValueError(
            f"rho_m_norm: workers is {known}; allowed: an integer of at least 1."
        )
    half = (workers + 1) // 2
    return _leaves.total(
        [_vote_weight(chance, half) * jnp.abs(leaf) for leaf, chance in pairs]
    )


def _vote_weight(chance: jax.Array, half: Any) -> jax.Array:
    """2I(ρ; l, l) − 1, written as ±I((2ρ − 1)²; ½, l), where nothing cancels."""
    edge = 2 * chance - 1
    half = jnp.asarray(half, chance.dtype)
    odds = jax.scipy.special.betainc(
        jnp.full_like(half, 0.5), half, jnp.square(edge)
    )
    return jnp.sign(edge) * odds


def l12_norm(g: optax.Updates, sigma: Any) -> jax.Array:
    r"""l^{1,2}-norm of a gradient: squared l2 below the noise, l1 above it.

    .. math::

      \|g\|_{l^{1,2}} = \sum_i \frac{g_i^2}{|g_i| + \sqrt{3}\, \sigma_i}

    a lower bound of the ρ-norm when the noise of each coordinate is unbiased,
    unimodal and symmetric.

    Args:
      g: pytree of floating-point arrays.
      sigma: standard deviations of the stochastic gradient, at least 0: a scalar, or
        a pytree of g's structure whose leaves have the shapes of g's or are scalars.

    Returns:
      Scalar, float32 (float64 if a leaf of g is), over the whole tree. A coordinate
      with g_i = σ_i = 0 counts 0. Squares are never formed, so they cannot overflow.

    Raises:
      ValueError: a concrete σ is negative or NaN, structures or shapes do not match,
        or a leaf is not floating point. Traced values are not checked.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> g = jnp.array([3., -4., 0.])
      >>> print(measures.l12_norm(g, 0.0))
      7.0
      >>> print(f'{measures.l12_norm(g, 1.0):.4f}')
      4.6932

    References:
      Safaryan and Richtárik, `Stochastic Sign Descent Methods: New Algorithms and
      Better Theory <https://arxiv.org/abs/1905.12938>`_, 2021, equation (5) and
      Lemma 1.
    """
    pairs = _leaves.paired(g, sigma, "l12_norm", "sigma")
    _leaves.check_range(sigma, "l12_norm", "sigma", 0, np.inf)
    terms = []
    for leaf, spread in pairs:
        size = jnp.abs(leaf)
        below = size + 3**0.5 * spread
        # A safe divisor, not a mask afterwards, keeps derivatives free of NaN.
        terms.append(size * (size / jnp.where(below == 0, 1, below)))
    return _leaves.total(terms)

"""How often stochastic signs are right, what that is worth, and what it costs."""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ef_optax._checks import check_float_leaves, shown
from ef_optax._numerics import concrete, wide
from ef_optax.measures._vectors import as_accumulators, total


def success_probabilities(samples: Any, gradient: optax.Updates) -> Any:
    r"""Estimates, per coordinate, how often a stochastic gradient has the right sign.

    .. math:: \hat\rho_i = \frac{1}{n} \sum_{j=1}^{n} \mathbb{1}\left[
      \operatorname{sign} \hat g_i^{(j)} = \operatorname{sign} g_i \right]

    with standard error √(ρ_i(1 − ρ_i)/n). Sign descent needs ρ_i > 1/2 where g_i ≠ 0.

    Args:
      samples: pytree of arrays ``[n, *shape]``: n independent stochastic gradients.
      gradient: pytree of the same structure, arrays ``[*shape]``: the true gradient.

    Returns:
      Pytree like the gradient, in float32 (float64 for float64 leaves). sign(0) = 0, as
      in the paper: where g_i ≠ 0 a sample that is exactly 0 is a failure, where g_i = 0
      a success. NaN never is one, and without samples the fraction is NaN.

    Examples:
      >>> import jax.numpy as jnp, ef_optax.measures as measures
      >>> samples = jnp.array([[1., -2.], [3., 1.], [0., -1.], [2., -5.]])
      >>> print(measures.success_probabilities(samples, jnp.array([1., -1.])))
      [0.75 0.75]

    References:
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Assumption 1.
    """
    check_float_leaves("success_probabilities", gradient)
    check_float_leaves("the samples of success_probabilities", samples)

    def fraction(true: jax.Array, drawn: jax.Array) -> jax.Array:
        # A reshape, since another shape should fail and not be broadcast.
        drawn = jnp.reshape(drawn, (len(drawn), *jnp.shape(true)))
        right = jnp.sign(drawn) == jnp.sign(true)
        return jnp.mean(right, axis=0, dtype=wide(jnp.result_type(true)))

    return jax.tree.map(fraction, gradient, samples)


def rho_norm(g: optax.Updates, rho: Any) -> jax.Array:
    r"""Measures how well a stochastic sign is expected to align with a gradient.

    .. math:: \|g\|_\rho = \sum_i (2\rho_i - 1)\, |g_i|

    Sign descent converges in it. Where ρ_i < 1/2 a coordinate counts negatively.

    Args:
      g: pytree of floating-point arrays.
      rho: success probabilities in [0, 1]: a scalar, or a pytree like g of arrays or
        scalars.

    Raises:
      ValueError: ρ is outside [0, 1]; a traced one is not checked.

    Examples:
      >>> import jax.numpy as jnp, ef_optax.measures as measures
      >>> rho = jnp.array([0.75, 1.0])
      >>> print(measures.rho_norm(jnp.array([-4., 3.]), rho))
      5.0

    References:
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Definition 1.
    """
    _check_inside("rho", rho, 1)
    return _sum("rho_norm", lambda size, chance: (2 * chance - 1) * size, g, rho)


def rho_m_norm(g: optax.Updates, rho: Any, workers: Any) -> jax.Array:
    r"""Measures how well a majority vote of M workers aligns with a gradient.

    .. math:: \|g\|_{\rho_M} = \sum_i \left(2 I(\rho_i; l, l) - 1\right) |g_i|, \qquad
      l = \left\lfloor \tfrac{M + 1}{2} \right\rfloor

    with I the regularised incomplete beta function. The weight is the mean of
    ``vote * sign(g_i)`` when each worker is right with probability ρ_i,
    independently, and a tie gives 0 (or a fair random sign); so 2l − 1 and 2l
    workers have the same weight, and M = 1 or 2 is the ρ-norm.

    Args:
      g: pytree of floating-point arrays.
      rho: success probabilities of one worker, as for ``rho_norm``.
      workers: M ≥ 1, an integer.

    Returns:
      Scalar. In float32 a weight is off by 1e-6 for tens of workers, by 1e-4 for a
      thousand.

    Raises:
      ValueError: ρ or M is outside its range; traced ones are not checked.

    Examples:
      >>> import jax.numpy as jnp, ef_optax.measures as measures
      >>> g = jnp.array([-4., 3.])
      >>> [round(float(measures.rho_m_norm(g, 0.75, m)), 3) for m in (1, 3, 4, 31)]
      [3.5, 4.813, 4.813, 6.982]

    References:
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Definition 2
      and Lemma 8.
    """
    _check_inside("rho", rho, 1)
    known = concrete(workers)
    if known is not None and not (known >= 1 and known.is_integer()):
        raise ValueError(f"workers must be an integer of at least 1; got {workers!r}.")
    half = (workers + 1) // 2

    def aligned(size: jax.Array, chance: jax.Array) -> jax.Array:
        # 2I(ρ; l, l) − 1, written as ±I((2ρ − 1)²; ½, l), where nothing cancels.
        edge, b = 2 * chance - 1, jnp.asarray(half, chance.dtype)
        weight = jax.scipy.special.betainc(jnp.full_like(b, 0.5), b, jnp.square(edge))
        return jnp.sign(edge) * weight * size

    return _sum("rho_m_norm", aligned, g, rho)


def l12_norm(g: optax.Updates, sigma: Any) -> jax.Array:
    r"""Measures a gradient by squared l2 below the noise and by l1 above it.

    .. math:: \|g\|_{l^{1,2}} = \sum_i \frac{g_i^2}{|g_i| + \sqrt{3}\, \sigma_i}

    a lower bound of the ρ-norm, for when only the deviations of the noise are known;
    it holds if the noise of each coordinate is unbiased, unimodal and symmetric.

    Args:
      g: pytree of floating-point arrays.
      sigma: standard deviations of the stochastic gradient, at least 0; otherwise as
        ρ for ``rho_norm``.

    Returns:
      Scalar. A coordinate with g_i = σ_i = 0 counts 0. Squares are never formed, so
      they cannot overflow.

    Raises:
      ValueError: σ is negative or NaN; a traced one is not checked.

    Examples:
      >>> import jax.numpy as jnp, ef_optax.measures as measures
      >>> print(f'{measures.l12_norm(jnp.array([3., -4., 0.]), 1.0):.4f}')
      4.6932

    References:
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Lemma 1.
    """
    _check_inside("sigma", sigma, math.inf)

    def damped(size: jax.Array, spread: jax.Array) -> jax.Array:
        below = size + 3**0.5 * spread
        # A safe divisor, not a mask afterwards, keeps derivatives free of NaN.
        return size * (size / jnp.where(below == 0, 1, below))

    return _sum("l12_norm", damped, g, sigma)


def _check_inside(name: str, tree: Any, high: float) -> None:
    """Refuses entries outside [0, high] and NaN, where they are known."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.core.Tracer):
            continue
        values = np.asarray(leaf)
        if not np.all((values >= 0) & (values <= high)):
            raise ValueError(f"{name} must be in [0, {high:g}]; got {shown(leaf)}.")


def _sum(
    name: str, term: Callable[[jax.Array, jax.Array], jax.Array], g: Any, weights: Any
) -> jax.Array:
    """Returns the sum of term(|g_i|, weight_i); the weights are one, or like g."""

    def terms(x: jax.Array, weight: Any) -> jax.Array:
        each = term(jnp.abs(x), jnp.asarray(weight, x.dtype))
        return jnp.broadcast_to(each, x.shape)  # Fails for weights larger than g.

    g = as_accumulators(name, g)
    weights = jax.tree.broadcast(weights, g)
    return total(jax.tree.leaves(jax.tree.map(terms, g, weights)))


def bits_per_step(method: str, parameters: int, workers: int) -> float:
    r"""Counts the bits of a step as the signSGD paper does, to compare with its table.

    .. math:: 64\, M d \text{ (SGD)}, \quad
      \left(2 + \log_2(2M + 1)\right) M d \text{ (QSGD, TernGrad)}, \quad
      2\, M d \text{ (majority vote)}

    from all M workers to a server, and from it back to all. QSGD is the one with a
    single level; a sum of M ternary numbers takes 2M + 1 values, hence the logarithm.
    Scales are not counted: ``wire_report`` reads the bytes of a real program.

    Args:
      method: ``'sgd'``, ``'qsgd'``, ``'terngrad'`` or ``'majority_vote'``.
      parameters: d, the number of coordinates.
      workers: M.

    Returns:
      The number of bits, of all workers together, a float.

    Examples:
      >>> from ef_optax import measures
      >>> measures.bits_per_step('majority_vote', parameters=1000, workers=4)
      8000.0

    References:
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, Table 1.
    """
    workers, parameters = operator.index(workers), operator.index(parameters)
    ternary = 2 + math.log2(2 * workers + 1)
    # For one parameter and one worker: up to the server, and back down.
    bits = {"sgd": 64, "qsgd": ternary, "terngrad": ternary, "majority_vote": 2}
    if method not in bits:
        raise ValueError(f"method must be one of {', '.join(bits)}; got {method!r}.")
    return float(bits[method] * workers * parameters)

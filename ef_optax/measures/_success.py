"""Success probabilities: how often a stochastic sign is the right one."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ef_optax.measures import _leaves


def success_probabilities(samples: Any, gradient: optax.Updates) -> Any:
    r"""Fraction of stochastic gradients with the true gradient's sign, per coordinate.

    .. math::

      \hat\rho_i = \frac{1}{n} \sum_{j=1}^{n}
      \mathbb{1}\left[\operatorname{sign} \hat g_i^{(j)} = \operatorname{sign} g_i
      \right]

    an estimate of ρ_i with standard error √(ρ_i(1 − ρ_i)/n). Sign descent needs
    ρ_i > 1/2 wherever g_i ≠ 0.

    Args:
      samples: pytree of floating-point arrays ``[n, *shape]``, n ≥ 1 independent
        stochastic gradients along the leading axis.
      gradient: pytree of the same structure, arrays ``[*shape]``: the true gradient.

    Returns:
      Pytree of the same structure, arrays ``[*shape]`` in float32 (float64 for
      float64 leaves). sign(0) = 0, as in the paper: a sample that is exactly 0 is a
      failure where g_i ≠ 0, and where g_i = 0 (where the theory asks nothing) the
      fraction is that of samples that are exactly 0. NaN is never a success.

    Raises:
      ValueError: structures or shapes do not match, there are no samples, or a leaf
        is not floating point.

    Examples:
      >>> import jax.numpy as jnp
      >>> from ef_optax import measures
      >>> samples = jnp.array([[1., -2.], [3., 1.], [0., -1.], [2., -5.]])
      >>> print(measures.success_probabilities(samples, jnp.array([1., -1.])))
      [0.75 0.75]

    References:
      Safaryan and Richtárik, `Stochastic Sign Descent Methods: New Algorithms and
      Better Theory <https://arxiv.org/abs/1905.12938>`_, 2021, Assumption 1.
    """
    function = "success_probabilities"
    true = _leaves.float_leaves(gradient, function, "gradient", common=False)
    drawn = _leaves.float_leaves(samples, function, "samples", common=False)
    treedef = jax.tree.structure(gradient)
    if not _leaves.same_structure(samples, gradient):
        raise ValueError(
            f"{function}: samples has structure {jax.tree.structure(samples)}; "
            f"allowed: the structure of gradient, {treedef}."
        )
    for sample, leaf in zip(drawn, true, strict=True):
        if sample.shape[1:] != leaf.shape or sample.shape[:1] in ((), (0,)):
            raise ValueError(
                f"{function}: a leaf of samples has shape {sample.shape}; allowed: "
                f"(n, *{leaf.shape}) with n >= 1."
            )
    fractions = [
        jnp.mean(jnp.sign(sample) == jnp.sign(leaf)[None], axis=0, dtype=leaf.dtype)
        for sample, leaf in zip(drawn, true, strict=True)
    ]
    return jax.tree.unflatten(treedef, fractions)

"""How dense a vector is, what a compressor loses of it, how far it is from others."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import check_float_leaves
from ef_optax._numerics import wide


def as_accumulators(name: str, tree: Any) -> Any:
    """Returns the leaves as arrays of one dtype to sum in: float32 or float64."""
    check_float_leaves(name, tree)
    dtypes = [wide(jnp.result_type(x)) for x in jax.tree.leaves(tree)]
    dtype = jnp.result_type(jnp.float32, *dtypes)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def largest(leaves: Iterable[jax.Array]) -> jax.Array:
    """Returns the largest magnitude; 1 where that is 0, infinite or NaN.

    Squares of entries divided by it neither overflow nor all underflow.
    """
    found = jnp.zeros((), jnp.float32)
    for leaf in leaves:
        found = jnp.maximum(found, jnp.max(jnp.abs(leaf), initial=0))
    return jnp.where(jnp.isfinite(found) & (found > 0), found, 1)


def total(terms: Iterable[jax.Array]) -> jax.Array:
    """Returns the sum of all entries of all terms; 0 for none."""
    return sum((jnp.sum(term) for term in terms), start=jnp.zeros((), jnp.float32))


def scaled_squares(tree: Any) -> tuple[jax.Array, jax.Array]:
    """Returns (s, q) where s² q is the sum of squares, and q is in range for any s."""
    leaves = jax.tree.leaves(tree)
    scale = largest(leaves)
    return scale, total(jnp.square(leaf / scale) for leaf in leaves)


def density(tree: optax.Updates) -> jax.Array:
    r"""Tells how evenly a vector is spread, hence how well a scaled sign keeps it.

    .. math:: \phi(v) = \frac{\|v\|_1^2}{d\, \|v\|_2^2} \in \left[\tfrac{1}{d}, 1\right]

    It is 1 when all coordinates have the same magnitude, 1/d when one alone is
    non-zero, and near 2/π for Gaussian entries. A scaled sign has contraction
    φ(v) exactly, as long as v has no zeros or sign(0) = ±1.

    Args:
      tree: pytree of floating-point arrays of any shape, taken as one vector. ``None``
        and ``optax.MaskedNode`` are skipped. Sums are made after division by the
        largest magnitude, so entries near 1e30 or 1e-30 are safe.

    Returns:
      Scalar. A zero vector, which has no density, gives 0, below every density there
      is; so does a tree without coordinates. Infinite or NaN entries give NaN.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> v = {'w': jnp.array([3., 0.]), 'b': jnp.array([4.])}
      >>> print(f'{ef_optax.density(v):.4f}')
      0.6533

    References:
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, equation (1); and
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Lemma 8.
    """
    leaves = jax.tree.leaves(as_accumulators("density", tree))
    count = sum(leaf.size for leaf in leaves)
    if not count:
        return jnp.zeros((), jnp.float32)
    scale = largest(leaves)
    scaled = [leaf / scale for leaf in leaves]
    absolute = total(jnp.abs(leaf) for leaf in scaled)
    squares = total(jnp.square(leaf) for leaf in scaled)
    empty = squares == 0
    # absolute/count first: its square could pass float32 for very large models.
    value = absolute / count * (absolute / jnp.where(empty, 1, squares))
    # Rounding alone can leave the interval that Cauchy-Schwarz gives.
    return jnp.where(empty, 0, jnp.clip(value, 1 / count, 1))


def contraction(
    compressor: optax.GradientTransformation, tree: optax.Updates, state: Any = None
) -> jax.Array:
    r"""Measures what part of a vector's squared norm a compressor loses.

    .. math:: \frac{\|C(x) - x\|_2^2}{\|x\|_2^2}

    A δ-approximate compressor keeps it at or below 1 − δ (in expectation if the
    compressor is random), so 1 minus this is the δ measured at x. It may exceed 1:
    then the compressor does not contract x.

    Args:
      compressor: any ``optax.GradientTransformation``, called without parameters.
      tree: pytree of floating-point arrays, x.
      state: the compressor's state; ``compressor.init(tree)`` when None. For another
        draw of a random compressor, pass a state of a later step or of another key.

    Returns:
      Scalar. A zero vector gives 0, whatever the compressor makes of it.

    Examples:
      >>> import jax.numpy as jnp, optax, ef_optax
      >>> print(ef_optax.contraction(optax.scale(0.5), jnp.array([3., 4.])))
      0.25

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Assumption A.
    """
    if state is None:
        state = compressor.init(tree)
    compressed, _ = compressor.update(tree, state, None)
    given = as_accumulators("contraction", tree)
    sent = as_accumulators("the compressor in contraction", compressed)
    # A reshape, since another shape should fail and not be broadcast.
    lost = jax.tree.map(lambda x, c: c.reshape(x.shape) - x, given, sent)
    scale, squares = scaled_squares(given)
    lost_scale, lost_squares = scaled_squares(lost)
    empty = squares == 0
    # A root first: the square of a ratio of scales may overflow where nothing is lost.
    root = jnp.sqrt(lost_squares / jnp.where(empty, 1, squares))
    return jnp.where(empty, 0, jnp.square(root * (lost_scale / scale)))


def span_distance(tree: optax.Params, vectors: Any) -> jax.Array:
    r"""Measures how far a vector is from the span of others, as of the gradients.

    .. math:: \min_{a} \Big\|x - \sum_i a_i g_i\Big\|_2 = \|x - \Pi_G\, x\|_2

    With x₀ = 0 and the gradients seen so far, the iterate of SGD has distance 0, and
    that of error feedback at most the norm of its error.

    Args:
      tree: pytree of floating-point arrays, x (minus x₀, if that is not 0).
      vectors: the g_i: a list or tuple of pytrees of x's structure and shapes, or one
        pytree of x's structure whose leaves have a leading axis of equal length. They
        may be dependent, zero, more than the dimension, and of very different
        lengths; an empty list spans 0.

    Returns:
      Scalar. The floor is the rounding of x, about 1e-7 ‖x‖ in float32. Directions
      within about ``eps * (n + sqrt(d))`` of dependent, for n vectors of d coordinates,
      count as dependent. NaN or infinite vectors give NaN.

    Examples:
      >>> import jax.numpy as jnp, ef_optax.measures as measures
      >>> plane = [jnp.array([1., 1., 0.]), jnp.array([1., -1., 0.])]
      >>> print(measures.span_distance(jnp.array([5., 6., 7.]), plane))
      7.0

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Theorem IV.
    """
    tree = as_accumulators("span_distance", tree)
    vectors = as_accumulators("the vectors of span_distance", vectors)
    structure: Any = jax.tree.structure
    # x becomes row 0 of the vectors: JAX joins arrays only where they fit.
    if structure(vectors) == structure(tree):
        joined = jax.tree.map(lambda x, g: jnp.concatenate([x[None], g]), tree, vectors)
    else:
        joined = jax.tree.map(lambda *each: jnp.stack(each), tree, *vectors)
    leaves = jax.tree.leaves(joined)
    if not sum(leaf.size for leaf in leaves):
        return jnp.zeros((), jnp.float32)
    matrix = jnp.concatenate(
        [leaf.reshape(len(leaf), leaf.size // len(leaf)) for leaf in leaves], axis=1
    )
    scale = largest([matrix[0]])
    flat, rows = matrix[0] / scale, matrix[1:]
    if not len(rows):
        return scale * jnp.linalg.norm(flat)
    basis = _basis(rows)
    exact = jax.lax.Precision.HIGHEST
    for _ in range(2):  # The second pass removes what rounding left.
        inside = jnp.matmul(basis, flat, precision=exact)
        flat = flat - jnp.matmul(inside, basis, precision=exact)
    known = jnp.all(jnp.isfinite(rows))
    return jnp.where(known, scale * jnp.linalg.norm(flat), jnp.nan)


def _basis(rows: jax.Array) -> jax.Array:
    """Returns orthonormal rows spanning `rows`; zero rows for missing dimensions."""
    # The span does not depend on lengths, so the rank should not either.
    lengths = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    rows = rows / jnp.where(lengths > 0, lengths, 1)
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / jnp.where(lengths > 0, lengths, 1)
    _, values, basis = jnp.linalg.svd(rows, full_matrices=False)
    count, dimension = rows.shape
    # Entries rounded to eps move the singular values of unit rows by about
    # eps √count; the rest is room for the decomposition itself. (The usual
    # eps·max(shape) would drop real directions of a model with 1e6 parameters.)
    tolerance = jnp.finfo(rows.dtype).eps * (count + dimension**0.5)
    return jnp.where((values > tolerance * values[0])[:, None], basis, 0)

"""Leaves that skip compression, averaged in full precision."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ef_optax._checks import shown
from ef_optax._numerics import flag_of, nan_unless
from ef_optax.compressors import Compressor
from ef_optax.workers import AxisName, Workers


class ExemptState(NamedTuple):
    """State of the transformation that the other leaves go through."""

    inner: Any


@dataclasses.dataclass(frozen=True)
class Exempt:
    """A compressor, and the leaves that are sent without it.

    Attributes:
      compressor: for the other leaves.
      mask: a pytree of booleans, or a function of a tree to one; True exempts a leaf.
    """

    compressor: Any
    mask: Any

    def mask_of(self, tree: Any) -> Any:
        """Returns the mask of a tree; refuses one that is not of booleans."""
        found = self.mask(tree) if callable(self.mask) else self.mask
        leaves = jax.tree.leaves(found)
        wrong = [m for m in leaves if not isinstance(m, bool | np.bool_)]
        if wrong:
            raise TypeError(
                "exempt: mask must be a pytree of booleans, True where a leaf is "
                f"exempt; got {shown(wrong[0])} in it."
            )
        return found


def exempt(
    compressor: Compressor | optax.GradientTransformation,
    mask: Any | Callable[[Any], Any],
    axis_name: AxisName = None,
) -> Any:
    r"""Lets biases, norms or embeddings skip compression; give it to an optimizer.

    .. math::
      u^{(l)} \leftarrow \begin{cases}
        \frac1M \sum_{i=1}^M u_i^{(l)} & \text{if leaf } l \text{ is exempt},\\
        \text{the compressed mean} & \text{otherwise.}
      \end{cases}

    Everything else of the optimizer (learning rate, momentum, weight decay) applies to
    all leaves: ``ef_sgd(0.1, exempt(scaled_sign(), mask), axis_name="workers")``.
    Biases, scales of norms and embeddings are few numbers that suffer most from
    compression. :func:`optax.masked` alone would leave them as they are on each
    worker, so that the replicas drift apart without a word.

    In place of a compressor it takes a single transformation that exchanges, such as
    :func:`ef_optax.majority_vote`, and returns a transformation; exempt leaves then
    skip that link of the chain, and nothing else.

    A non-finite value in any leaf of any worker makes the whole update NaN on all of
    them, and what is held by error feedback stays.

    Args:
      compressor: for the other leaves; or a transformation, with the exchange in it.
      mask: a pytree of booleans with the structure of the parameters, or a function
        from parameters to one; True exempts a leaf.
      axis_name: the mesh axis of the workers, of a transformation; a compressor is told
        it by what it is given to.

    Returns:
      Of a compressor, what :func:`ef_optax.error_feedback`, :func:`ef_optax.compress`
      and :func:`ef_optax.ef_sgd` take in its place; of a transformation, a
      :class:`optax.GradientTransformationExtraArgs` with :class:`ExemptState`.

    Raises:
      TypeError: at init, if the mask is not of booleans, or if a whole optimizer was
        given, whose learning rate exempt leaves would skip too.
      ValueError: at init, if the mask has not the structure of the parameters; at
        trace time, if gradients have other shapes than the parameters or are already
        summed over the axis.
      NameError: at trace time, if the axis is not bound.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> vectors = lambda tree: jax.tree.map(lambda x: jnp.ndim(x) < 2, tree)
      >>> tx = ef_optax.ef_sgd(1.0, ef_optax.exempt(ef_optax.scaled_sign(), vectors))
      >>> params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
      >>> grads = {"w": jnp.ones((2, 2)), "b": jnp.array([1.0, 3.0])}
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> print(updates["b"])
      [-1. -3.]
    """
    exemption = Exempt(compressor, mask)
    if isinstance(compressor, Compressor):
        return exemption
    workers, mask_of = Workers(axis_name), exemption.mask_of

    def others(tree: Any) -> Any:
        return jax.tree.map(lambda m: not m, mask_of(tree))

    inner = optax.with_extra_args_support(optax.masked(compressor, others))

    def init_fn(params: Any) -> ExemptState:
        state = inner.init(params)
        _refuse_chain(state.inner_state)
        return ExemptState(inner=state)

    def update_fn(updates: Any, state: ExemptState, params: Any = None, **extra: Any):
        updates = workers.own_updates("exempt", updates, params)
        # Each part tells the other of a non-finite value by its own flag: the inner
        # transformation sees NaN, the average counts workers whose tree is not finite.
        finite = workers.all_finite(updates)
        compressed, inner_state = inner.update(
            nan_unless(finite, updates), state.inner, params, **extra
        )
        skipped = jax.tree.map(
            lambda m, sub: sub if m else None, mask_of(updates), updates
        )
        mean, bad = workers.mean((skipped, flag_of(finite, jnp.float32)))
        mean = nan_unless(bad == 0, mean)
        # Put the averages back where the mask is True; a mask may be a prefix.
        merged = jax.tree.map(
            lambda m, a, c: a if m else c, mask_of(updates), mean, compressed,
            is_leaf=lambda x: x is None,
        )
        return merged, ExemptState(inner=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _refuse_chain(state: Any) -> None:
    """Refuses a chain, of which exempt leaves would skip the learning rate too."""

    def is_chain(node: Any) -> bool:
        return type(node) is tuple and any(hasattr(x, "_fields") for x in node)

    if any(map(is_chain, jax.tree.leaves(state, is_leaf=is_chain))):
        raise TypeError(
            "exempt: leaves that skip a whole optimizer skip its learning rate and its "
            "minus sign. Give the compressor, as in ef_sgd(learning_rate, "
            "exempt(scaled_sign(), mask), axis_name=...), or chain the rest after "
            "exempt(majority_vote(axis_name), mask, axis_name)."
        )

"""A transformation that changes nothing and records measures while training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import check_state, check_transformation
from ef_optax.measures import _leaves
from ef_optax.measures._density import of_leaves
from ef_optax.measures._errors import error_norm, errors, is_feedback
from ef_optax.workers import AxisName, Workers


class MeasuresState(NamedTuple):
    """What `record_measures` saw at its last step, and the wrapped state.

    Attributes:
      count: int32, steps recorded.
      density: float32, density of the incoming updates; 0 before the first step.
      corrected_density: float32, density of incoming updates plus error; None
        unless the wrapped transformation is error feedback itself.
      error_norm: float32, norm of the error after the step; None if nothing is
        wrapped.
      inner: state of the wrapped transformation, or ``optax.EmptyState()``.
    """

    count: jax.Array  # type: ignore[assignment]
    density: jax.Array
    corrected_density: jax.Array | None
    error_norm: jax.Array | None
    inner: Any


def _corrected(updates: Any, error: Any) -> list[jax.Array]:
    """Leaves of updates + error; a leaf missing on one side counts on neither."""
    pairs = jax.tree.map(
        lambda update, kept: None if update is None or kept is None else (update, kept),
        updates,
        error,
        is_leaf=lambda x: x is None,
    )
    flat = _leaves.float_leaves(pairs, "record_measures", "updates")
    return [
        update + kept for update, kept in zip(flat[::2], flat[1::2], strict=True)
    ]


def record_measures(
    inner: optax.GradientTransformation | None = None,
    *,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Record density and error norm in the state; updates pass through unchanged.

    .. math::

      \phi(u_t), \qquad \phi(u_t + e_t), \qquad \|e_{t+1}\|_2

    Alone, it records the density φ(u) of what passes it in a chain. Around error
    feedback it also records the norm of the new error and, if ``inner`` is error
    feedback itself rather than a chain that holds it, the density of update plus
    error, which is the contraction of a scaled sign at that step.

    That sum is what error feedback compresses as long as its ``decay`` is 1 and it
    is given no ``learning_rate``. With one worker and any options,
    ``error_feedback(optax.chain(record_measures(), compressor))`` records the density
    of the very input of the compressor.

    Args:
      inner: a transformation that holds error feedback, applied as it is; None to
        only look at what passes.
      axis_name: None, or the worker axis (or axes) the update runs under. With it,
        the values kept are means over the workers, so they are equal on all workers
        and the state can be replicated; it costs one all-reduce of three scalars.
        Without it they are those of the worker at hand.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with a ``MeasuresState``. Read
      ``state.density`` after a step, inside ``jit`` or ``scan`` too; in a larger
      state, ``optax.tree.get(state, 'corrected_density')``. Recorded values are
      float32. An update that is not finite records NaN and is forgotten at the next
      step.

    Raises:
      ValueError: in ``init``, if ``inner`` holds no error feedback; in ``update``,
        if a leaf of the updates is not floating point (mask such leaves).
      NameError: in ``update``, if the axis is not bound.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from ef_optax import measures
      >>> tx = optax.chain(measures.record_measures(), optax.sgd(0.1))
      >>> params = jnp.zeros(4)
      >>> state = tx.init(params)
      >>> updates, state = tx.update(jnp.array([1., 0., -1., 0.]), state, params)
      >>> print(state[0].density)
      0.5

      Around error feedback, after the learning rate:

      >>> import ef_optax
      >>> tx = optax.chain(
      ...   optax.scale_by_learning_rate(0.5),
      ...   measures.record_measures(
      ...     ef_optax.error_feedback(ef_optax.scaled_sign())
      ...   ),
      ... )
      >>> state = tx.init(params)
      >>> updates, state = tx.update(jnp.array([8., 4., 4., 8.]), state, params)
      >>> print(updates, state[1].error_norm)
      [-3. -3. -3. -3.] 2.0

    References:
      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient
      Compression Schemes <https://arxiv.org/abs/1901.09847>`_, 2019, Figure 2 and
      Lemma 8.
    """
    workers = Workers(axis_name)
    if inner is not None:
        check_transformation("record_measures", inner)
    wrapped = None if inner is None else optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> MeasuresState:
        state = optax.EmptyState() if wrapped is None else wrapped.init(params)
        if wrapped is not None and not errors(state):
            raise ValueError(
                f"record_measures: the state of inner, a {type(state).__name__}, "
                "holds no ErrorFeedbackState; allowed: None, or a transformation "
                "that holds error_feedback."
            )
        return MeasuresState(
            count=jnp.zeros((), jnp.int32),
            density=jnp.zeros((), jnp.float32),
            corrected_density=(
                jnp.zeros((), jnp.float32) if is_feedback(state) else None
            ),
            error_norm=None if wrapped is None else jnp.zeros((), jnp.float32),
            inner=state,
        )

    def update(
        updates: optax.Updates,
        state: MeasuresState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, MeasuresState]:
        check_state("record_measures", state, MeasuresState)
        incoming = _leaves.float_leaves(updates, "record_measures", "updates")
        measured = {"density": of_leaves(incoming)}
        after = state.inner
        if wrapped is not None:
            if is_feedback(state.inner):
                measured["corrected_density"] = of_leaves(
                    _corrected(updates, state.inner.error)
                )
            updates, after = wrapped.update(updates, state.inner, params, **extra_args)
            measured["error_norm"] = error_norm(after)
        # float32 whatever came in, so that the state's types never change
        measured = {name: x.astype(jnp.float32) for name, x in measured.items()}
        measured = workers.mean(measured)
        count = optax.safe_increment(state.count)
        return updates, state._replace(count=count, inner=after, **measured)

    return optax.GradientTransformationExtraArgs(init, update)

"""How large the errors are, and a transformation that records it while training."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import check_state
from ef_optax._numerics import widen
from ef_optax.feedback import ErrorFeedbackState
from ef_optax.measures._vectors import as_accumulators, density, scaled_squares
from ef_optax.workers import AxisName, Workers


def error_norm(state: Any) -> jax.Array:
    r"""Measures how much error feedback holds back, from any optax state.

    .. math:: \|e\|_2 = \sqrt{\textstyle\sum_j \|e_j\|_2^2}

    where j runs over every ``ErrorFeedbackState`` in the state, however deep in
    chains, masks or wrappers.

    Args:
      state: any optax state. If it has a leading worker axis, the norm is over all
        workers; inside a mapped axis it is this worker's.

    Returns:
      Scalar in the unit of the errors: of the parameters when error feedback comes
      after the learning rate. Squares cannot overflow or underflow.

    Raises:
      ValueError: the state holds no ``ErrorFeedbackState``.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.error_feedback(ef_optax.top_k(k=1))
      >>> updates = jnp.array([3., 4., -4.5])
      >>> _, state = tx.update(updates, tx.init(updates))
      >>> print(ef_optax.error_norm(state))
      5.0

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Lemma 3.
    """
    found = _errors(state)
    if not found:
        raise ValueError(
            f"error_norm found no ErrorFeedbackState in a {type(state).__name__}. Pass "
            "the state of a transformation that holds error_feedback."
        )
    scale, squares = scaled_squares(as_accumulators("error_norm", found))
    return scale * jnp.sqrt(squares)


def _is_feedback(node: Any) -> bool:
    return isinstance(node, ErrorFeedbackState)


def _errors(state: Any) -> list[Any]:
    """Returns the error of every ErrorFeedbackState in `state`, nested ones too."""
    found = []
    for node in jax.tree.leaves(state, is_leaf=_is_feedback):
        if _is_feedback(node):
            # A compressor or an exchange may keep feedback of its own.
            found += [node.error, *_errors(tuple(node._replace(error=None)))]
    return found


class MeasuresState(NamedTuple):
    """What `record_measures` saw at its last step, and the wrapped state.

    Densities are 0 before the first step. ``corrected_density``, of updates plus error,
    is None unless error feedback itself is wrapped, ``error_norm`` if nothing is.
    """

    count: jax.Array  # type: ignore[assignment]
    density: jax.Array
    corrected_density: jax.Array | None
    error_norm: jax.Array | None
    inner: Any


def record_measures(
    inner: optax.GradientTransformation | None = None, *, axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    r"""Records density and error norm while training; updates pass unchanged.

    .. math:: \phi(u_t), \qquad \phi(u_t + e_t), \qquad \|e_{t+1}\|_2

    Alone, it records the density φ(u) of what passes it in a chain. Around error
    feedback it also records the norm of the new error and, if ``inner`` is error
    feedback itself rather than a chain that holds it, the density of update plus
    error, which is the contraction of a scaled sign at that step.

    That sum is what error feedback compresses as long as its ``decay`` is 1 and it
    is given no ``learning_rate``. With one worker and any options,
    ``error_feedback(optax.chain(record_measures(), compressor))`` records the density
    of the very input of the compressor.

    Args:
      inner: a transformation that holds error feedback; None to only look.
      axis_name: None for the values of the worker at hand, or the worker axis (or axes)
        for means over the workers, by one all-reduce of three scalars, so that the
        state can be replicated.

    Returns:
      A transformation with a ``MeasuresState``. Read ``state.density`` after a step,
      inside ``jit`` or ``scan`` too; in a larger state,
      ``optax.tree.get(state, 'corrected_density')``. An update that is not finite
      records NaN, and is forgotten at the next step.

    Raises:
      ValueError: in ``update``, if ``inner`` holds no error feedback.

    Examples:
      >>> import jax.numpy as jnp, optax, ef_optax
      >>> tx = optax.chain(ef_optax.record_measures(), optax.sgd(0.1))
      >>> params = jnp.zeros(4)
      >>> state = tx.init(params)
      >>> updates, state = tx.update(jnp.array([1., 0., -1., 0.]), state, params)
      >>> print(state[0].density)
      0.5

      Around error feedback, after the learning rate:

      >>> tx = optax.chain(
      ...   optax.scale_by_learning_rate(0.5),
      ...   ef_optax.record_measures(ef_optax.error_feedback(ef_optax.scaled_sign())),
      ... )
      >>> state = tx.init(params)
      >>> updates, state = tx.update(jnp.array([8., 4., 4., 8.]), state, params)
      >>> print(updates, state[1].error_norm)
      [-3. -3. -3. -3.] 2.0

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Figure 2.
    """
    workers = Workers(axis_name)
    zero = functools.partial(jnp.zeros, (), jnp.float32)
    wrapped = None if inner is None else optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> MeasuresState:
        state = optax.EmptyState() if wrapped is None else wrapped.init(params)
        return MeasuresState(
            jnp.zeros((), jnp.int32), zero(), zero() if _is_feedback(state) else None,
            None if wrapped is None else zero(), state,
        )

    def update(
        updates: optax.Updates, state: MeasuresState,
        params: optax.Params | None = None, **extra_args: Any,
    ) -> tuple[optax.Updates, MeasuresState]:
        check_state("record_measures", state, MeasuresState)
        measured = {"density": density(updates)}
        after = state.inner
        if wrapped is not None:
            if _is_feedback(state.inner):
                # A leaf missing on one side counts on neither.
                corrected = jax.tree.map(
                    lambda u, e: None if u is None or e is None else u + e,
                    widen(updates), state.inner.error, is_leaf=lambda x: x is None,
                )
                measured["corrected_density"] = density(corrected)
            updates, after = wrapped.update(updates, state.inner, params, **extra_args)
            measured["error_norm"] = error_norm(after)
        # Float32 whatever came in, so that the state's types never change.
        measured = {name: x.astype(jnp.float32) for name, x in measured.items()}
        measured = workers.mean(measured)
        count = optax.safe_increment(state.count)
        return updates, state._replace(count=count, inner=after, **measured)

    return optax.GradientTransformationExtraArgs(init, update)

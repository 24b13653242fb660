"""Option 2: a step is taken only if it lowers the loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ef_optax._numerics import keep_if
from ef_optax.workers import AxisName, Workers


class AcceptState(NamedTuple):
    """The optimizer's state, if the last step was taken, and how many were not."""

    inner: Any
    accepted: jax.Array
    rejections: jax.Array


def accept_if_lower(
    optimizer: optax.GradientTransformation, axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    r"""Takes a step only if it lowers the loss; put it around an optimizer.

    .. math::
      x \leftarrow \begin{cases} x + u & f(x + u) < f(x), \\ x & \text{otherwise}
      \end{cases}

    With :func:`ef_optax.sign_sgd` it is Option 2 of Algorithm 1. A step that is not
    taken leaves the optimizer's state as it was, the count of a schedule in it too: a
    learning rate that is too large for a deterministic gradient stays, and so does the
    point. A loss that is NaN is not lower.

    ``update`` needs the parameters and the extra argument ``value_fn``, a function
    from parameters to the loss, the same at each call of one step; ``value``, the loss
    at the parameters, saves one evaluation.

    Args:
      optimizer: a whole optimizer, learning rate included.
      axis_name: the mesh axis over which the workers' losses are averaged, so that all
        decide alike; None for one worker, or if the loss is the same on all workers.

    Returns:
      A transformation with :class:`AcceptState`.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> f = lambda x: jnp.sum(x**2)
      >>> tx = ef_optax.accept_if_lower(ef_optax.sign_sgd(learning_rate=1.0))
      >>> x = jnp.array([0.3])
      >>> updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, value_fn=f)
      >>> print(updates, state.accepted)
      [0.] False

    References:
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Algorithm 1
    """
    optimizer = optax.with_extra_args_support(optimizer)
    workers = Workers(axis_name)

    def init_fn(params: Any) -> AcceptState:
        return AcceptState(
            optimizer.init(params), jnp.array(True), jnp.zeros([], jnp.int32)
        )

    def update_fn(
        updates: Any, state: AcceptState, params: Any = None, *,
        value_fn: Callable[[Any], Any], value: Any = None, **extra: Any,
    ):
        step, inner = optimizer.update(
            updates, state.inner, params, value_fn=value_fn, value=value, **extra
        )
        before = value_fn(params) if value is None else value
        after = value_fn(optax.apply_updates(params, step))
        # A loss that is no scalar would accept coordinates one by one.
        before, after = workers.mean((jnp.reshape(before, ()), jnp.reshape(after, ())))
        lower = after < before
        out = jax.tree.map(lambda u: jnp.where(lower, u, jnp.zeros_like(u)), step)
        count = jnp.where(
            lower, state.rejections, optax.safe_increment(state.rejections)
        )
        return out, AcceptState(keep_if(lower, inner, state.inner), lower, count)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

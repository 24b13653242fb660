"""Gradients of one worker."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ef_optax.workers._workers import AxisName, Workers


def local_value_and_grad(
    fun: Callable[..., Any],
    axis_name: AxisName,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    **kwargs: Any,
) -> Callable[..., Any]:
    r"""Differentiates a worker's own loss; use it inside ``shard_map``.

    .. math::
      g_i = \nabla f_i(x) \quad\text{and not}\quad \sum_j \nabla f_j(x).

    Inside :func:`jax.shard_map` with ``check_vma=True``, :func:`jax.value_and_grad`
    with respect to parameters that are the same on all workers returns gradients that
    are already summed over the axis. Compression and votes need the local ones. Under
    :func:`jax.pmap` and :func:`jax.vmap` the two are equal.

    Args:
      fun: the loss of this worker's data, as for :func:`jax.value_and_grad`.
      axis_name: the mesh axis of the workers, or a tuple of them; None for one worker.
      argnums: which positional arguments to differentiate.
      has_aux: whether `fun` returns a pair of the value and auxiliary data.
      **kwargs: passed on to :func:`jax.value_and_grad`.

    Returns:
      A function of the arguments of `fun` that returns its value and gradient.

    Raises:
      NameError: when called where the axis is not bound.

    Examples:
      >>> import functools, jax, jax.numpy as jnp, ef_optax
      >>> def loss(x, a):
      ...     return jnp.sum(x * a)
      >>> step = ef_optax.local_value_and_grad(loss, "workers")
      >>> value, grad = jax.vmap(step, in_axes=(None, 0), axis_name="workers")(
      ...     jnp.array(1.0), jnp.array([2.0, 3.0]))
      >>> print(grad)
      [2. 3.]
    """
    workers = Workers(axis_name)
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    inner = jax.value_and_grad(fun, argnums=argnums, has_aux=has_aux, **kwargs)

    def value_and_grad(*args: Any, **kwds: Any) -> Any:
        workers.check_bound()
        wanted = {p % len(args) for p in positions} if args else set()
        args = tuple(workers.varying(a) if i in wanted else a
                     for i, a in enumerate(args))
        return inner(*args, **kwds)

    return value_and_grad

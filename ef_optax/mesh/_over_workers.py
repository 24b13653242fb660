"""Workers under plain jit: a transformation mapped over the devices of a mesh."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

from ef_optax._numerics import leaf_dtype
from ef_optax.mesh._layout import Layout
from ef_optax.mesh._specs import specs_of
from ef_optax.workers import state_owners


def over_workers(
    tx: optax.GradientTransformation, mesh: Mesh | AbstractMesh,
    axis_name: str | tuple[str, ...] = "workers", *, param_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs `tx` with one worker on each device; use it under plain ``jit``.

    .. math:: (g_1, \dots, g_M) \mapsto u

    The transformation returned takes the gradients of all :math:`M` workers, with a
    leading worker axis, and returns one update without it:

    .. code-block:: python

      grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batches)
      updates, state = tx.update(grads, state, params)

    with the batches split over the mesh by ``P("workers")``. It is ``tx.update`` in a
    :func:`jax.shard_map`, manual over all axes of the mesh, whose types refuse what is
    not declared rightly. State that belongs to one worker (the error, momentum by
    :func:`ef_optax.local`) has a leading worker axis and is only on that worker's
    device; everything else is the same on all. Gradients and state may be donated.

    With a model axis in the mesh, every part of the model is compressed and exchanged
    alone, by the workers that hold it: `tx` sees these parts as its leaves, with a
    scale, k and random numbers of their own, so a norm over them (clipping, LARS)
    belongs outside.

    Args:
      tx: what exchanges over `axis_name`, with everything else that needs to know
        each worker's gradient.
      mesh: a mesh of Auto or Explicit axes, such as :func:`ef_optax.worker_mesh`. A
        :class:`jax.sharding.AbstractMesh` tells by ``jax.eval_shape(tx.init, params)``
        the shapes of a state for any number of workers, as for a checkpoint.
      axis_name: the mesh axis of the workers, or a tuple of them; the same as in `tx`.
      param_specs: a pytree of :class:`jax.sharding.PartitionSpec` like the parameters:
        how they are split over the other axes of the mesh; None if it has none.

    Returns:
      A transformation whose ``update`` takes gradients ``[M, *shape]`` and returns
      updates ``[*shape]`` in the same dtypes. Parameters and extra arguments are the
      same on all workers; an extra argument that is no array, such as a function, is
      passed on as it is. For shardings of the state see :func:`ef_optax.state_specs`.

    Raises:
      ValueError: if axes of the mesh are not as named; at trace time, for gradients or
        a state without the leading axis, parameters split over the workers, updates
        that still differ between them, or if workers are mapped over already.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> mesh = ef_optax.worker_mesh(1)
      >>> tx = ef_optax.over_workers(ef_optax.majority_vote("workers"), mesh)
      >>> grads = jnp.array([[0.1, -9.0, 0.0]])  # of one worker
      >>> updates, state = tx.update(grads, tx.init(jnp.zeros(3)))
      >>> print(updates)
      [ 1. -1.  0.]
    """
    layout = Layout(mesh, axis_name, param_specs)
    inner = optax.with_extra_args_support(tx)

    def mapped(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Any:
        return jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=True
        )

    def init_fn(params: Any) -> Any:
        layout.check_outside()
        layout.check_params(params)
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(params))
        if isinstance(mesh, AbstractMesh) and not traced:
            raise ValueError(
                "over_workers: an abstract mesh has no devices. It tells shapes by "
                "jax.eval_shape(tx.init, params); a state needs a worker_mesh()."
            )
        return init(params)

    @jax.jit
    def init(params: Any) -> Any:
        specs = layout.specs_of_params(params)
        params = layout.reshard(params, specs)
        found: list[Any] = []

        def look(params: Any) -> tuple[()]:
            state = inner.init(params)
            owners = state_owners(state)
            found.append(owners)
            found.append(jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(jnp.shape(x), leaf_dtype(x)),
                _own(lax.expand_dims, state, owners),
            ))
            return ()

        # What init returns is known only where the axis is bound.
        jax.eval_shape(mapped(look, (specs,), P()), params)
        owners, shapes = found
        return mapped(
            lambda params: _own(lax.expand_dims, inner.init(params), owners), (specs,),
            specs_of(shapes, owners, axis_name, param_specs),
        )(params)

    def update(rest: Any, grads: Any, state: Any, params: Any, arrays: Any) -> Any:
        owners = state_owners(state)
        layout.check_gradients(grads, params)
        layout.check_state(state, owners)
        specs = layout.specs_of_params(grads)
        state_specs = specs_of(state, owners, axis_name, param_specs)

        def one(grads: Any, state: Any, params: Any, arrays: Any) -> tuple[Any, Any]:
            grads = jax.tree.map(lambda g: lax.squeeze(g, (0,)), grads)
            try:
                own = _own(lax.squeeze, state, owners)
                updates, state = inner.update(grads, own, params, **_join(arrays, rest))
            except TypeError as error:
                if "ApplyIfFiniteState" in str(jax.tree.structure(state)):
                    error.add_note(
                        "over_workers: in place of optax.apply_if_finite, where each "
                        "worker decides for itself, use ef_optax.skip_nonfinite."
                    )
                raise
            layout.check_same("updates", updates, specs)
            state = _own(lax.expand_dims, state, owners)
            layout.check_same("state", state, state_specs)
            return updates, state

        args = (grads, state, params, arrays)
        in_specs = (
            layout.specs_of_gradients(grads), state_specs,
            layout.specs_of_params(params), jax.tree.map(lambda _: P(), arrays),
        )
        run = mapped(one, in_specs, (specs, state_specs))
        return run(*layout.reshard(args, in_specs))

    # Of arrays alone: compiled once, also where the caller has no jit around it.
    update_arrays = jax.jit(functools.partial(update, None))

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        layout.check_outside()
        layout.check_params(params)
        arrays, rest = _split(extra)
        run = update_arrays
        if jax.tree.leaves(rest):
            run = jax.jit(functools.partial(update, rest))
        return run(updates, state, params, arrays)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _own(change: Callable[..., Any], state: Any, owners: Any) -> Any:
    """Adds or removes the leading axis of what belongs to one worker."""
    return jax.tree.map(
        lambda x, owner: x if owner == "all" else change(x, (0,)), state, owners
    )


def _split(extra: Any) -> tuple[Any, Any]:
    """Returns the extra arguments that are arrays, and the others; None elsewhere."""

    def is_array(x: Any) -> bool:
        return not isinstance(x, bool) and isinstance(
            x, jax.Array | np.ndarray | np.generic | float | int
        )

    arrays = jax.tree.map(lambda x: x if is_array(x) else None, extra)
    return arrays, jax.tree.map(lambda x: None if is_array(x) else x, extra)


def _join(arrays: Any, rest: Any) -> Any:
    if rest is None:
        return arrays
    return jax.tree.map(
        lambda x, other: other if x is None else x, arrays, rest,
        is_leaf=lambda x: x is None,
    )

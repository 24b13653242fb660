"""Gradients and optimizer state that belong to one worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import optax

from ef_optax._checks import (
    check_like_params,
    check_state,
    check_transformation,
)
from ef_optax._numerics import guard
from ef_optax.workers._workers import AxisName, Workers

T = TypeVar("T")


def local_value_and_grad(
    fun: Callable[..., Any],
    axis_name: AxisName,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    **kwargs: Any,
) -> Callable[..., Any]:
    r"""Returns a function for the value and this worker's own gradient.

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


def per_worker(
    *fields: str, padding: str | None = None, goes_on: tuple[str, ...] = ()
) -> Callable[[type[T]], type[T]]:
    """Declares fields of a state that differ from worker to worker.

    What places, saves or resizes optimizer state finds them as `cls.per_worker`.

    Args:
      *fields: names of the fields.
      padding: the field that says of each leaf by how many numbers all workers'
        shards exceed it, if the declared fields hold shards of flat leaves and not
        what each worker has for itself; found as `cls.padding_field`.
      goes_on: fields that a step changes even if :func:`ef_optax.skip_nonfinite` does
        not take it; found as `cls.goes_on`.
    """

    def declare(cls: Any) -> Any:
        named = {*fields, *goes_on, *([padding] if padding else [])}
        unknown = named - set(cls._fields)
        if unknown:
            raise ValueError(
                f"per_worker: {cls.__name__} has no fields {sorted(unknown)}; it has "
                f"{', '.join(cls._fields)}."
            )
        cls.per_worker = fields
        cls.padding_field = padding
        cls.goes_on = goes_on
        # One field alone, or fields of the user's, may well be names of parameters.
        if cls.__module__.startswith("ef_optax.") and len(cls._fields) > 1:
            _FIELDS[frozenset(cls._fields)] = cls.__name__
        return cls

    return declare


def declares(node: Any) -> bool:
    """Returns whether a node of a state declares what belongs to one worker."""
    return hasattr(type(node), "per_worker")


def refuse_plain(name: str, state: Any) -> None:
    """Refuses a state whose types are lost, and with them what they declare.

    Checkpoints that are restored without a tree to restore into give dicts.
    """

    def lost(node: Any) -> str | None:
        return _FIELDS.get(frozenset(node)) if isinstance(node, Mapping) else None

    for node in jax.tree.leaves(state, is_leaf=lambda node: lost(node) is not None):
        if (found := lost(node)) is not None:
            raise TypeError(
                f"{name}: a dict has the fields of {found}, whose type says which of "
                f"them belong to one worker; got the keys {', '.join(map(str, node))}. "
                "Restore the checkpoint into the tree of jax.eval_shape(tx.init, "
                "params), such as over_workers makes it."
            )


# By their fields the states of this package that must not be taken for plain dicts.
_FIELDS: dict[frozenset[str], str] = {}


def leaf_kinds(state: Any) -> Any:
    """Returns of each leaf whether it is each worker's "own", "rows" or the "same".

    Own leaves are rows if they hold shards of flattened parameters.
    """

    def mark(node: Any) -> Any:
        if not declares(node):
            return "same"
        kind = "rows" if type(node).padding_field else "own"
        return type(node)(*(
            jax.tree.map(lambda _: kind, value)
            if field in type(node).per_worker else leaf_kinds(value)
            for field, value in zip(node._fields, node, strict=True)
        ))

    return jax.tree.map(mark, state, is_leaf=declares)


def per_worker_leaves(state: Any) -> Any:
    """Returns a pytree of booleans: which leaves of a state belong to one worker."""
    return jax.tree.map(lambda kind: kind != "same", leaf_kinds(state))


@per_worker("inner")
class LocalState(NamedTuple):
    """State of a transformation that differs from worker to worker."""

    inner: Any


def local(
    tx: optax.GradientTransformation,
    axis_name: AxisName = None,
    *,
    allow_unvarying: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Declares that the state of `tx` belongs to one worker.

    A transformation that stands before the exchange and keeps state, such as
    momentum, keeps it of this worker's own gradients. `local` types that state as
    varying over the axis, so that :func:`jax.lax.scan` inside :func:`jax.shard_map`
    accepts it, marks it for placement and checkpoints, and refuses gradients that are
    already summed over the workers.

    A gradient that is not finite passes as NaN and leaves the state of this worker as
    it was, so that momentum recovers from it.

    Args:
      tx: a transformation that calls no collective.
      axis_name: the mesh axis of the workers; None for one worker, where the state is
        that of `tx` itself.
      allow_unvarying: whether some gradients (not all) may be the same on all
        workers.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs` with :class:`LocalState`.

    Raises:
      ValueError: at trace time, if gradients do not vary over the axis.
      NameError: at trace time, if the axis is not bound.

    Examples:
      >>> import optax, ef_optax
      >>> tx = optax.chain(
      ...     ef_optax.local(optax.trace(0.9), "workers"),
      ...     ef_optax.majority_vote("workers"),
      ...     optax.scale_by_learning_rate(1e-3),
      ... )
    """
    workers = Workers(axis_name)
    check_transformation("local", tx)
    tx = _guarded(tx, workers)
    if workers.is_one:
        return tx

    def init_fn(params: Any) -> LocalState:
        return LocalState(inner=workers.varying(tx.init(params)))

    def update_fn(updates: Any, state: LocalState, params: Any = None, **extra: Any):
        workers.check_bound()
        check_state("local", state, LocalState)
        workers.refuse_summed("local", updates, allow_unvarying)
        updates, inner = tx.update(
            workers.varying(updates), state.inner, params, **extra
        )
        return updates, LocalState(inner=workers.varying(inner))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _guarded(
    tx: optax.GradientTransformation, workers: Workers
) -> optax.GradientTransformationExtraArgs:
    """Keeps the state of `tx` where its input is not finite, and passes NaN on."""
    tx = optax.with_extra_args_support(tx)

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any):
        def step(u: Any, s: Any) -> Any:
            return tx.update(u, s, params, **extra)

        check_like_params("local", updates, params)
        return guard(step, workers.all_finite(updates), updates, state)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)

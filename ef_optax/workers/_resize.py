"""Optimizer state of one number of workers, made into that of another."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from ef_optax._checks import check_static_int, describe_leaves, shown
from ef_optax.workers._local import declares, per_worker_leaves, refuse_plain
from ef_optax.workers._specs import names_in, of_param

# Words of a raw key -> the implementation that has so many.
_RAW_KEYS = {2: "threefry2x32", 4: "rbg"}


def resize_workers(
    state: Any,
    count: int,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    param_specs: Any = None,
) -> Any:
    r"""Returns optimizer state for another number of workers.

    .. math::
      e'_j \leftarrow \frac1M \sum_{i=1}^M e_i
      \qquad \text{so that} \qquad
      \frac1{M'} \sum_{j=1}^{M'} e'_j = \frac1M \sum_{i=1}^M e_i

    for worker :math:`j` of :math:`M'`: parameters plus the mean error, which follow
    the uncompressed updates, go on from where they were. The same holds for local
    momenta and accumulated gradients. What a worker keeps as the server of its shards
    (:func:`ef_optax.two_way`) is joined and cut anew, bit for bit.

    The state is laid out as by :func:`ef_optax.over_workers`: what belongs to one
    worker, as :func:`ef_optax.workers.per_worker_leaves` tells, has a leading worker
    axis :math:`[M, \dots]`, everything else has none. That holds for one worker too:
    :math:`[1, \dots]`. (State of ``axis_name=None`` has no worker axis; nor can it be
    resized.) Where its arrays live does not matter, and :func:`jax.device_put` with
    :func:`ef_optax.state_specs` brings the result to the new mesh:

    .. code-block:: python

      state = ef_optax.resize_workers(jax.device_get(state), 6)
      specs = ef_optax.state_specs(state)
      state = jax.device_put(
          state, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))

    Args:
      state: the state of an optimizer, or anything that holds some, of NumPy arrays
        or of JAX arrays that this process can read whole.
      count: how many workers there are from now on, at least 1.
      mesh: the old mesh or the new, of which only those axes count that split the
        parameters, the same in both; needed where there are any.
      param_specs: how they split them, as given to :func:`ef_optax.over_workers`.

    Returns:
      The state for `count` workers; the same objects where nothing changes, that is
      all of them if there are `count` workers already or if nothing belongs to one.
      Of what belongs to one worker:

      - floating-point leaves are the mean, taken in float64, on every worker;
      - integers and booleans are what all had, or the largest where they differed;
      - random keys, typed or raw, stay with their workers, and new workers get new
        ones folded from those;
      - NumPy arrays stay NumPy arrays; JAX arrays are on the default device.

    Raises:
      TypeError: if a leaf is traced, abstract, or cannot be read by this process, or
        if a dict stands where one of this package's states was.
      ValueError: if `count` is below 1, if the worker axes of the leaves disagree, or
        if parameters are split and nothing says how.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.error_feedback(ef_optax.top_k(k=1), axis_name="workers")
      >>> state = tx.init(jnp.zeros(2))._replace(  # of two workers
      ...     error=jnp.array([[1.0, 0.0], [2.0, 4.0]]))
      >>> print(ef_optax.resize_workers(state, 3).error)
      [[1.5 2. ]
       [1.5 2. ]
       [1.5 2. ]]
    """
    count = check_static_int("count", count, 1)
    refuse_plain("resize_workers", state)
    if (mesh is None) != (param_specs is None):
        raise ValueError(
            "resize_workers: param_specs name axes of a mesh, so give mesh and "
            f"param_specs, or neither; got mesh={shown(mesh)} and "
            f"param_specs={shown(param_specs)}."
        )
    specs = dict(jax.tree_util.tree_leaves_with_path(param_specs))

    def parts(path: Any, leaf: Any) -> int:
        """Returns over how many parts of the model the shards of a leaf are."""
        if mesh is None:
            return 1
        names = names_in(of_param(path, leaf, "rows", specs))
        return math.prod(mesh.shape[name] for name in names)

    size = _size(state)
    if size is None or size == count:
        return state
    return _resize(state, size, count, parts)


def _size(state: Any) -> int | None:
    """Returns the number of workers a state is for, None if it does not depend on it.

    Raises:
      TypeError, ValueError: as above.
    """
    own = jax.tree.leaves(per_worker_leaves(state))
    sizes: dict[int, list[str]] = {}
    flat = jax.tree_util.tree_leaves_with_path(state)
    for (path, x), belongs in zip(flat, own, strict=True):
        if isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct):
            raise TypeError(
                "resize_workers makes arrays of other shapes from the values of these, "
                f"so it needs arrays; got {shown(x)}: call it outside jit, on a state "
                "and not on its shapes."
            )
        if belongs:
            name = jax.tree_util.keystr(path)
            if not np.shape(x):
                raise ValueError(
                    f"resize_workers: {name} belongs to one worker, but has no worker "
                    "axis: shape (). " + _LAYOUT
                )
            sizes.setdefault(np.shape(x)[0], []).append(name)
        elif getattr(path[-1], "name", "") == "count" and np.shape(x):
            raise ValueError(
                f"resize_workers: {jax.tree_util.keystr(path)} is the same on all "
                f"workers, but has the shape {np.shape(x)}, as in a state that was "
                "made inside jax.pmap. " + _LAYOUT
            )
    if len(sizes) > 1:
        told = "; ".join(f"{n}: {describe_leaves(p)}" for n, p in sizes.items())
        raise ValueError(
            "resize_workers: the leaves do not agree about the number of workers: "
            f"{told}. " + _LAYOUT
        )
    return next(iter(sizes), None)


_LAYOUT = (
    "It takes state as ef_optax.over_workers lays it out: what belongs to one worker "
    "has a leading worker axis (axis_name=None gives none), and nothing else has."
)


def _resize(
    state: Any, size: int, count: int, parts: Callable[[Any, Any], int]
) -> Any:
    def of_node(node: Any) -> Any:
        if not declares(node):
            return node
        cls, new = type(node), node._asdict()
        own = {field: new[field] for field in cls.per_worker}
        if cls.padding_field is not None and jax.tree.leaves(own):
            cut, padding = _cut_anew(own, new[cls.padding_field], size, count, parts)
            return node._replace(**cut, **{cls.padding_field: padding})
        spread = functools.partial(_spread, size=size, count=count)
        return node._replace(**{
            field: jax.tree.map(spread, value) if field in own
            else _resize(value, size, count, parts) for field, value in new.items()
        })

    return jax.tree.map(of_node, state, is_leaf=declares)


def _spread(x: Any, size: int, count: int) -> Any:
    """Returns what each of `count` workers has in the place of a leaf [size, ...]."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return _more_keys(x, size, count)
    if x.dtype == jnp.uint32 and x.ndim == 2 and x.shape[1] in _RAW_KEYS:
        keys = jax.random.wrap_key_data(jnp.asarray(x), impl=_RAW_KEYS[x.shape[1]])
        return _like(jax.random.key_data(_more_keys(keys, size, count)), x)
    old = _host(x)
    if jnp.issubdtype(old.dtype, jnp.floating):
        one = np.mean(old, axis=0, dtype=np.float64)
    elif jnp.issubdtype(old.dtype, jnp.complexfloating):
        one = np.mean(old, axis=0, dtype=np.complex128)
    else:
        one = np.max(old, axis=0)
    new = np.broadcast_to(one.astype(old.dtype), (count, *old.shape[1:]))
    return _like(new.copy(), x)


def _more_keys(keys: Any, size: int, count: int) -> Any:
    """Returns the keys of the first `count` workers, with new ones for new workers."""
    new = [
        jax.random.fold_in(keys[i % size], i) if keys.ndim == 1
        else jax.vmap(jax.random.fold_in, (0, None))(keys[i % size].ravel(), i)
        .reshape(keys.shape[1:])
        for i in range(size, count)
    ]
    return jnp.concatenate([keys[:count], *(key[None] for key in new)])


def _cut_anew(
    shards: Any,
    padding: Any,
    size: int,
    count: int,
    parts: Callable[[Any, Any], int],
) -> tuple[Any, Any]:
    """Returns shards [size, rows] as [count, rows], and their padding."""
    flat = jax.tree_util.tree_leaves_with_path(shards)
    old = _host(padding)
    if old.shape != (len(flat),):
        raise ValueError(
            f"resize_workers: padding has the shape {old.shape} for {len(flat)} leaves "
            "of shards. " + _LAYOUT
        )
    new, cut = old.copy(), []
    for i, (path, x) in enumerate(flat):
        name = jax.tree_util.keystr(path)
        of_model = parts(path, x)
        if _is_split(x) and of_model == 1:
            raise ValueError(
                f"resize_workers: the shards {name} are split over a mesh axis of the "
                "model too. Say how: resize_workers(state, count, mesh=..., "
                "param_specs=...)."
            )
        rows = x.shape[-1] // of_model
        numbers = size * rows - int(old[i])
        if x.shape != (size, of_model * rows) or not 0 <= numbers <= size * rows:
            raise ValueError(
                f"resize_workers: the shards {name} of shape {x.shape} in {of_model} "
                f"parts with a padding of {old[i]} are not those of {size} workers. "
                f"{_LAYOUT}"
            )
        pieces = _cut(_host(x).reshape(size, of_model, rows), numbers, count)
        new[i] = count * pieces.shape[-1] - numbers
        cut.append(_like(pieces.reshape(count, -1), x))
    return jax.tree.unflatten(jax.tree.structure(shards), cut), _like(new, padding)


def _cut(x: np.ndarray, numbers: int, count: int) -> np.ndarray:
    """Returns what is in [size, parts, rows] in [count, parts, rows]."""
    size, parts, rows = x.shape
    flat = np.swapaxes(x, 0, 1).reshape(parts, size * rows)[:, :numbers]
    rows = -(-numbers // count)
    out = np.pad(flat, ((0, 0), (0, count * rows - numbers)))
    return np.swapaxes(out.reshape(parts, count, rows), 0, 1)


def _is_split(x: Any) -> bool:
    """Returns whether other mesh axes than the workers' split shards [size, rows]."""
    sharding = getattr(x, "sharding", None)
    return (
        isinstance(sharding, NamedSharding)
        and any(sharding.mesh.shape[n] > 1 for n in names_in(sharding.spec[1:]))
    )


def _host(x: Any) -> np.ndarray:
    if isinstance(x, jax.Array) and not (
        x.is_fully_addressable or x.is_fully_replicated
    ):
        raise TypeError(
            "resize_workers: this process cannot read the whole of an array of shape "
            f"{x.shape}, which is spread over several. Gather it with "
            "jax.experimental.multihost_utils.process_allgather(state, tiled=True), or "
            "read it from a checkpoint as NumPy arrays."
        )
    return np.asarray(x)


def _like(new: Any, old: Any) -> Any:
    """Returns an array of the kind of `old`: of NumPy or of JAX."""
    make: Callable[..., Any] = jnp.array if isinstance(old, jax.Array) else np.array
    return make(new)

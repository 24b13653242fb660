"""Optimizer state of one number of workers, made into that of another."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from ef_optax._checks import check_count, describe
from ef_optax.mesh._specs import names_in, of_param, refuse_plain
from ef_optax.workers import declares, per_worker_leaves

# Words of a raw key -> the implementation that has so many.
_RAW_KEYS = {2: "threefry2x32", 4: "rbg"}


def resize_workers(
    state: Any, count: int, *, mesh: Mesh | AbstractMesh | None = None,
    param_specs: Any = None,
) -> Any:
    r"""Converts optimizer state to another number of workers, losing no error.

    .. math::
      e'_j \leftarrow \frac1M \sum_{i=1}^M e_i
      \qquad \text{so that} \qquad
      \frac1{M'} \sum_{j=1}^{M'} e'_j = \frac1M \sum_{i=1}^M e_i

    for worker :math:`j` of :math:`M'`: parameters plus the mean error, which follow
    the uncompressed updates, go on from where they were. The same holds for local
    momenta and accumulated gradients. What a worker keeps as the server of its shards
    (:func:`ef_optax.two_way`) is joined and cut anew, bit for bit.

    The state is laid out as by :func:`ef_optax.over_workers`: what belongs to one
    worker has a leading worker axis :math:`[M, \dots]`, also for one worker, and
    everything else has none. (State of ``axis_name=None`` cannot be resized.) Where its
    arrays live does not matter; bring the result to the new mesh:

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
      The state for `count` workers; the same object if nothing changes. Of what belongs
      to one worker, floating-point leaves are the mean, taken in float64; integers and
      booleans what all had, or the largest; random keys stay with their workers, and
      new workers get new ones folded from those. NumPy arrays stay so; JAX arrays that
      were on several devices, also what all workers share, are on the default device.

    Raises:
      TypeError: if a state's type was lost, or bytes stand where numbers were.
      ValueError: if the worker axes of the leaves disagree, or if parameters are split
        and nothing says how.

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
    count = check_count("count", count)
    refuse_plain("resize_workers", state)
    if (mesh is None) != (param_specs is None):
        raise ValueError(
            "resize_workers: param_specs name axes of a mesh, so give mesh and "
            "param_specs, or neither."
        )
    specs = dict(jax.tree_util.tree_leaves_with_path(param_specs))

    def parts(path: Any, leaf: Any) -> int:
        """Returns over how many parts of the model the shards of a leaf are."""
        if mesh is None:
            return 1
        names = names_in(of_param(path, leaf, "shard", specs))
        return math.prod(mesh.shape[name] for name in names)

    size = _size(state)
    if size is None or size == count:
        return state
    return _resize(state, size, count, parts)


_LAYOUT = (
    "It takes state as ef_optax.over_workers lays it out: what belongs to one worker "
    "has a leading worker axis (axis_name=None gives none), and nothing else has."
)


def _size(state: Any) -> int | None:
    """Returns the number of workers a state is for, None if for any number."""
    own = jax.tree.leaves(per_worker_leaves(state))
    sizes: dict[tuple[int, ...], list[str]] = {}
    flat = jax.tree_util.tree_leaves_with_path(state)
    for (path, x), belongs in zip(flat, own, strict=True):
        if belongs:
            name = jax.tree_util.keystr(path)
            sizes.setdefault(np.shape(x)[:1], []).append(name)
        elif getattr(path[-1], "name", "") == "count" and np.shape(x):
            raise ValueError(
                f"resize_workers: {jax.tree_util.keystr(path)} is the same on all "
                f"workers, but has shape {np.shape(x)}, as from jax.pmap. {_LAYOUT}"
            )
    if len(sizes) > 1 or () in sizes:
        told = "; ".join(f"{n}: {describe(p)}" for n, p in sizes.items())
        raise ValueError(
            f"resize_workers: the leaves do not agree about the number of workers: "
            f"{told}. {_LAYOUT}"
        )
    return next(iter(sizes))[0] if sizes else None


def _resize(state: Any, size: int, count: int, parts: Callable[[Any, Any], int]) -> Any:
    def of_node(node: Any) -> Any:
        if not declares(node):
            return _on_default_device(node)
        new = node._asdict()
        own = {field: new[field] for field in node.per_worker}
        rest = {
            field: _resize(value, size, count, parts)
            for field, value in new.items() if field not in own
        }
        padding = getattr(node, "padding_field", None)
        if padding is not None and jax.tree.leaves(own):
            own, pads = _cut_anew(own, new[padding], size, count, parts)
            return node._replace(**rest | own | {padding: pads})
        spread = functools.partial(_spread, size=size, count=count)
        return node._replace(**rest | jax.tree.map(spread, own))

    return jax.tree.map(of_node, state, is_leaf=declares)


def _on_default_device(x: Any) -> Any:
    """Returns an array as it is, or on one device if it is on several."""
    if not isinstance(x, jax.Array) or len(x.devices()) == 1:
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _on_default_device(jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return _like(np.asarray(x), x)


def _spread(x: Any, size: int, count: int) -> Any:
    """Returns what each of `count` workers has in the place of a leaf [size, ...]."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return _more_keys(_on_default_device(x), size, count)
    if x.dtype == jnp.uint32 and x.ndim == 2 and x.shape[1] in _RAW_KEYS:
        keys = jax.random.wrap_key_data(
            jnp.asarray(np.asarray(x)), impl=_RAW_KEYS[x.shape[1]]
        )
        return _like(jax.random.key_data(_more_keys(keys, size, count)), x)
    old = np.asarray(x)
    if old.dtype.type is np.void:
        raise TypeError(
            f"resize_workers: got an array of bytes, {old.dtype}, as np.savez stores "
            "bfloat16. View it as the dtype that init gives: x.view(like.dtype)."
        )
    if jnp.issubdtype(old.dtype, jnp.inexact):
        real = jnp.issubdtype(old.dtype, jnp.floating)
        one = np.mean(old, axis=0, dtype=np.float64 if real else np.complex128)
    else:
        one = np.max(old, axis=0)
    new = np.broadcast_to(one.astype(old.dtype), (count, *old.shape[1:]))
    return _like(new.copy(), x)


def _more_keys(keys: Any, size: int, count: int) -> Any:
    """Returns the keys of the first `count` workers, with new ones for new workers."""
    fold = jax.random.fold_in
    for _ in keys.shape[1:]:
        fold = jax.vmap(fold, (0, None))
    new = [fold(keys[i % size], i)[None] for i in range(size, count)]
    return jnp.concatenate([keys[:count], *new])


def _cut_anew(
    shards: Any, padding: Any, size: int, count: int, parts: Callable[[Any, Any], int]
) -> tuple[Any, Any]:
    """Returns shards [size, rows] as [count, rows], and their padding."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(shards)
    new, cut = np.array(padding), []
    for i, (path, x) in enumerate(flat):
        of_model, name = parts(path, x), jax.tree_util.keystr(path)
        if _is_split(x) and of_model == 1:
            raise ValueError(
                f"resize_workers: the shards {name} are split over a mesh axis of the "
                "model too. Say how, by mesh= and param_specs=."
            )
        rows = x.shape[-1] // of_model
        numbers = size * rows - int(new[i])
        if x.shape != (size, of_model * rows) or not 0 <= numbers <= size * rows:
            raise ValueError(
                f"resize_workers: the shards {name} of shape {x.shape} in {of_model} "
                f"parts with a padding of {new[i]} are not those of {size} workers. "
                f"{_LAYOUT}"
            )
        # One row a worker and part -> one a part -> the rows of the new workers.
        whole = np.swapaxes(np.asarray(x).reshape(size, of_model, rows), 0, 1)
        whole = whole.reshape(of_model, size * rows)[:, :numbers]
        new[i] = -numbers % count
        whole = np.pad(whole, ((0, 0), (0, new[i]))).reshape(of_model, count, -1)
        cut.append(_like(np.swapaxes(whole, 0, 1).reshape(count, -1), x))
    return jax.tree.unflatten(treedef, cut), _like(new, padding)


def _is_split(x: Any) -> bool:
    """Returns whether other mesh axes than the workers' split shards [size, rows]."""
    sharding = getattr(x, "sharding", None)
    return isinstance(sharding, NamedSharding) and any(
        sharding.mesh.shape[n] > 1 for n in names_in(sharding.spec[1:])
    )


def _like(new: Any, old: Any) -> Any:
    """Returns an array of the kind of `old`: of NumPy or of JAX."""
    make: Callable[..., Any] = jnp.array if isinstance(old, jax.Array) else np.array
    return make(new)

"""The workers of a mesh axis, and the only code that calls a collective."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ef_optax._checks import check_updates, describe, named_leaves, warn
from ef_optax._numerics import all_finite, cast_varying, flag_of, varying_axes, widen

AxisName = None | str | tuple[str, ...]


class Workers:
    """The workers along one mesh axis, or several; one worker if there is no axis.

    Every method works on a whole pytree with a fixed few collectives, however many
    leaves it has: leaves are fused into flat buffers.

    Args:
      axis_name: the name of the axis, a tuple of names, or None for one worker.
      index: what stands for the index of this worker, as :meth:`shard` gives it.

    Attributes:
      axis_name: as given.
    """

    def __init__(self, axis_name: AxisName, index: Any = None):
        names = () if axis_name is None else axis_name
        self.axis_name = axis_name
        self._axes = (names,) if isinstance(names, str) else tuple(names)
        self._index = index

    @property
    def is_one(self) -> bool:
        """Whether there is no axis, so that nothing is ever sent."""
        return not self._axes

    @property
    def is_bound(self) -> bool:
        """Whether the axis is bound here; true for one worker."""
        try:
            for name in self._axes:
                lax.axis_size(name)
        except NameError:
            return False
        return True

    def check_bound(self) -> None:
        """Refuses to go on where the axis is not bound."""
        if not self.is_bound:
            raise NameError(
                f"axis_name={self.axis_name!r} is not bound here. Call update inside "
                "jax.shard_map, jax.pmap or jax.vmap over an axis of that name. Under "
                "plain jax.jit use ef_optax.over_workers, or pass axis_name=None for "
                "one worker."
            )

    def own_updates(self, name: str, updates: Any, like: Any) -> Any:
        """Returns updates of this worker as arrays, and refuses those that are not.

        Args:
          name: of the transformation that was given them.
          updates: a pytree of arrays or numbers.
          like: what has their shapes, such as the parameters; None if nothing has.

        Raises:
          NameError: if the axis is not bound.
          ValueError: if a leaf is no real float, has another shape, or is the same on
            all workers by its type, which means that it was summed over them.
        """
        self.check_bound()
        updates = check_updates(name, updates, like)
        if self.is_one:
            _warn_of_forgotten_axis(name, updates)
        else:
            self._refuse_summed(name, updates)
        return updates

    @property
    def size(self) -> int:
        """The number of workers, static."""
        return math.prod(lax.axis_size(name) for name in self._axes)

    @property
    def index(self) -> Any:
        """The index of this worker; 0 for one worker."""
        if self._index is not None:
            return self._index
        return 0 if self.is_one else lax.axis_index(self._axes)

    def shard(self, number: Any) -> "Workers":
        """Returns the workers with an index for each shard of each worker.

        What is encoded in so many parts draws random numbers for each of them.
        """
        return Workers(self.axis_name, self.index * self.size + number)

    def _typed_axes(self) -> frozenset[str]:
        """The axes over which types tell varying from unvarying values.

        Those of shard_map with check_vma=True; pmap and vmap have none.
        """
        if not self._axes or not self.is_bound:
            return frozenset()
        return frozenset(varying_axes(lax.axis_index(self._axes)) & set(self._axes))

    def varying(self, tree: Any) -> Any:
        """Types every leaf as one that differs between workers."""
        typed = self._typed_axes()
        return jax.tree.map(lambda x: cast_varying(x, typed), tree)

    def sum(self, tree: Any) -> Any:
        """Sums every leaf over the workers, in the leaf's own dtype."""
        return self._reduce(lax.psum, tree)

    def max(self, tree: Any) -> Any:
        """Takes the largest value of every element over the workers."""
        return self._reduce(lax.pmax, tree)

    def mean(self, tree: Any) -> Any:
        """Averages floating-point leaves over the workers, in at least float32."""
        total = self.sum(widen(tree))
        return jax.tree.map(lambda t, x: (t / self.size).astype(x.dtype), total, tree)

    def _reduce(self, collective: Callable[..., Any], tree: Any) -> Any:
        if self.is_one:
            return tree
        return _fused(
            lambda flat: [collective(x, self._axes) for x in flat], self.varying(tree)
        )

    def all_gather(self, tree: Any) -> Any:
        """Gathers every leaf from all workers; leaves gain a leading axis [size].

        All leaves are sent as bytes in one buffer (one per set of other mesh axes that
        they vary over).
        """
        if self.is_one:
            return jax.tree.map(lambda x: x[None], tree)
        return _fused_bytes(self._gather_flat, self.varying(tree))

    def _gather_flat(self, flat: jax.Array) -> jax.Array:
        # The result is the same everywhere, and where types say so it must too.
        # Axis by axis: vmap gathers over one axis at a time only.
        typed = self._typed_axes()
        out = flat
        for name in reversed(self._axes):
            options = {"to": "invarying"} if name in typed else {}
            out = lax.all_gather(out, name, **options)
        return out.reshape(self.size, *flat.shape)

    def all_to_all(self, tree: Any) -> Any:
        """Sends row j of every leaf to worker j; row i of the result is worker i's.

        Every leaf has a leading axis [size]. All leaves are sent as bytes in one
        buffer.
        """
        if self.is_one:
            return tree
        return _fused_bytes(self._exchange_rows, self.varying(tree), lead=1)

    def _exchange_rows(self, rows: jax.Array) -> jax.Array:
        if len(self._axes) == 1 or self._typed_axes() == set(self._axes):
            return lax.all_to_all(rows, self._axes, 0, 0, tiled=True)
        # vmap exchanges over one axis at a time only.
        sizes = [lax.axis_size(name) for name in self._axes]
        out = rows.reshape(*sizes, -1)
        for i, name in enumerate(self._axes):
            out = lax.all_to_all(out, name, i, i, tiled=True)
        return out.reshape(rows.shape)

    def all_finite(self, tree: Any) -> jax.Array:
        """Returns whether every number of this worker's tree is finite.

        Where other mesh axes split the tree, what they hold counts too, so that all
        parts of one worker decide alike.
        """
        return self.agreed(all_finite(tree))

    def all_summable(self, tree: Any) -> jax.Array:
        """Returns the same, and whether sums over a leaf and the workers are finite."""
        return self.agreed(all_finite(tree, workers=self.size))

    def agreed(self, finite: jax.Array) -> jax.Array:
        """Returns whether a flag is true for all parts of this worker."""
        others = tuple(sorted(varying_axes(finite) - set(self._axes)))
        if self.is_one or not others:
            return finite
        return lax.psum(flag_of(finite, jnp.int32), others) == 0

    def _refuse_summed(self, name: str, updates: Any) -> None:
        """Refuses gradients that are already summed over the workers.

        Under shard_map with check_vma=True the gradient with respect to unvarying
        parameters is summed by the transpose of the cast to varying, so that every
        worker holds the same one, and a vote or an error of it means nothing.
        """
        typed = self._typed_axes()
        same = [path for path, x in named_leaves(updates) if typed - varying_axes(x)]
        if same:
            raise ValueError(
                f"{name}: these gradients are the same on all workers of axis "
                f"{self.axis_name!r}, so they were already summed: {describe(same)}. "
                "Inside jax.shard_map take them by ef_optax.local_value_and_grad(loss, "
                f"{self.axis_name!r}), do not average them, and use "
                "ef_optax.accumulate in place of optax.MultiSteps. What is the same on "
                "purpose, such as a constant, says so by jax.lax.pcast(x, "
                f"{self.axis_name!r}, to='varying')."
            )


def _warn_of_forgotten_axis(name: str, updates: Any) -> None:
    """Warns where types tell that workers differ, and no axis was given."""
    axes = frozenset[str]().union(*map(varying_axes, jax.tree.leaves(updates)))
    if axes:
        axis = next(iter(axes)) if len(axes) == 1 else tuple(sorted(axes))
        warn(
            f"{name}: the gradients differ along the mesh axis {axis!r}, and axis_name "
            "is None: nothing is sent, and each worker makes an update of its own. "
            f"Pass axis_name={axis!r}, unless you average the updates yourself."
        )


def _fused(
    collective: Callable[[list[jax.Array]], list[jax.Array]], tree: Any, lead: int = 0
) -> Any:
    """Applies a collective to one flat buffer per dtype and varying type.

    The first `lead` axes of the leaves stay as they are; `collective` takes and
    returns the list of buffers, and may put axes before all others.
    """
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree)
    flat = [x.reshape(*x.shape[:lead], math.prod(x.shape[lead:])) for x in leaves]
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(leaves):
        groups.setdefault((x.dtype, varying_axes(x)), []).append(i)
    results = collective([
        flat[members[0]] if len(members) == 1
        else jnp.concatenate([flat[i] for i in members], axis=lead)
        for members in groups.values()
    ])
    out: list[Any] = [None] * len(leaves)
    for members, result in zip(groups.values(), results, strict=True):
        start = 0
        for i in members:
            stop = start + flat[i].shape[lead]
            piece = lax.slice_in_dim(result, start, stop, axis=result.ndim - 1)
            out[i] = piece.reshape(*result.shape[:-1], *leaves[i].shape[lead:])
            start = stop
    return treedef.unflatten(out)


def _fused_bytes(
    collective: Callable[[jax.Array], jax.Array], tree: Any, lead: int = 0
) -> Any:
    """Applies a collective to all leaves as the bytes of one buffer.

    There is one buffer per varying type; `collective` takes [..., bytes] with `lead`
    axes before the bytes, and returns [size, bytes].
    """
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree)
    is_raw = [x.dtype == jnp.uint8 for x in leaves]
    raw = [x for x, r in zip(leaves, is_raw, strict=True) if r]
    received: list[jax.Array] = []

    # Numbers by dtype first: thousands of scalars are one array when they become
    # bytes. What is bytes already, the bulk of a message, is copied only once.
    def together(buffers: list[jax.Array]) -> list[jax.Array]:
        out = _fused(
            lambda flat: [collective(x) for x in flat],
            [*raw, *(_to_bytes(x, lead) for x in buffers)], lead,
        )
        received.extend(out[:len(raw)])
        return [_from_bytes(b, x.dtype) for b, x in zip(out[len(raw):], buffers,
                                                        strict=True)]

    numbers = iter(_fused(
        together, [x for x, r in zip(leaves, is_raw, strict=True) if not r], lead
    ))
    sent = iter(received)
    return treedef.unflatten(next(sent if r else numbers) for r in is_raw)


def _to_bytes(x: jax.Array, lead: int) -> jax.Array:
    """Returns the bytes of an array [..., n], with the first `lead` axes kept."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.size == 0:  # of the same varying type
        return x.astype(jnp.uint8)
    return lax.bitcast_convert_type(x, jnp.uint8).reshape(*x.shape[:lead], -1)


def _from_bytes(flat: jax.Array, dtype: Any) -> jax.Array:
    """Reads bytes [size, bytes] as numbers [size, n]."""
    stored = jnp.dtype(jnp.uint8) if dtype == jnp.bool_ else jnp.dtype(dtype)
    if flat.size == 0:
        return flat.astype(dtype)
    if stored.itemsize > 1:
        flat = flat.reshape(flat.shape[0], -1, stored.itemsize)
    out = lax.bitcast_convert_type(flat, stored)
    return out.reshape(flat.shape[0], -1).astype(dtype)

"""The workers of a mesh axis, and the only code that calls a collective."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ef_optax._checks import describe_leaves, named_leaves, shown, warn
from ef_optax._numerics import all_finite, cast_varying, flag_of, varying_axes, widen

AxisName = None | str | tuple[str, ...]

# Whether what is traced is held by an error feedback that knows of no exchange.
_HELD: ContextVar[bool] = ContextVar("held", default=False)


@contextlib.contextmanager
def held_by_feedback() -> Iterator[None]:
    """Lets `check_crossing` know that an error is kept of what is traced meanwhile."""
    token = _HELD.set(True)
    try:
        yield
    finally:
        _HELD.reset(token)


class Workers:
    """The workers along one mesh axis, or several; one worker if there is no axis.

    Every method works on a whole pytree with a fixed few collectives, however many
    leaves it has: leaves are fused into flat buffers.

    Attributes:
      axis_name: the name of the axis, a tuple of names, or None for one worker.
    """

    def __init__(self, axis_name: AxisName):
        names = () if axis_name is None else axis_name
        names = (names,) if isinstance(names, str) else names
        if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names):
            raise TypeError(
                "axis_name must be None, a string or a tuple of strings; got "
                f"{shown(axis_name)}."
            )
        self.axis_name = axis_name
        self._axes: tuple[str, ...] = names

    @property
    def is_one(self) -> bool:
        """Whether there is no axis, so that nothing ever crosses."""
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
            # Of shard_map and pmap; nothing public tells those of vmap.
            axes = jax.sharding.get_abstract_mesh().manual_axes
            found = [name for name in axes if not name.startswith("_")]
            others = f"; {', '.join(map(repr, found))} is" if found else ""
            raise NameError(
                f"axis_name={self.axis_name!r} is not bound here{others}. Call update "
                "(and init, where it asks for the number of workers) inside "
                "jax.shard_map, jax.pmap(..., axis_name=...) or jax.vmap(..., "
                "axis_name=...) over that axis. Under plain jax.jit use "
                "ef_optax.over_workers, or pass axis_name=None for one worker."
            )

    def check_crossing(self, name: str, tree: Any) -> None:
        """Refuses an exchange where an error is kept of it; warns where there is none.

        Args:
          name: of the transformation that exchanges, or with one worker does not.
          tree: this worker's gradients.
        """
        if not self.is_one:
            if _HELD.get():
                raise TypeError(
                    f"error_feedback cannot hold an exchange, and {name} in it "
                    f"exchanges over axis {self.axis_name!r}: what this worker sent "
                    "is not known then, so nothing could be kept. Give error_feedback "
                    f"the compressor and axis_name={self.axis_name!r}, and chain other "
                    "transformations before it."
                )
            return
        axes = frozenset[str]().union(*map(varying_axes, jax.tree.leaves(tree)))
        if axes:
            name_or_names = next(iter(axes)) if len(axes) == 1 else tuple(sorted(axes))
            warn(
                f"{name}: the gradients differ along the mesh axis {name_or_names!r}, "
                "and axis_name is None: nothing crosses, and each worker makes an "
                f"update of its own. Pass axis_name={name_or_names!r}, unless you "
                "average the updates yourself."
            )

    @property
    def size(self) -> int:
        """The number of workers, static."""
        self.check_bound()
        return math.prod(lax.axis_size(name) for name in self._axes)

    @property
    def index(self) -> Any:
        """The index of this worker; 0 for one worker."""
        if not self._axes:
            return 0
        self.check_bound()
        return lax.axis_index(self._axes)

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
        self.check_bound()
        return _fused(
            lambda flat: [collective(x, self._axes) for x in flat], self.varying(tree)
        )

    def all_gather(self, tree: Any) -> Any:
        """Gathers every leaf from all workers; leaves gain a leading axis [size].

        All leaves cross as bytes in one buffer (one per set of other mesh axes that
        they vary over).
        """
        if self.is_one:
            return jax.tree.map(lambda x: x[None], tree)
        self.check_bound()
        return _fused_bytes(self._gather_flat, self.varying(tree))

    def all_to_all(self, tree: Any) -> Any:
        """Sends row j of every leaf to worker j; row i of the result is worker i's.

        Every leaf has a leading axis [size]. All leaves cross as bytes in one buffer.
        """
        if self.is_one:
            return tree
        self.check_bound()
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

    def agreed(self, finite: jax.Array) -> jax.Array:
        """Returns whether a flag is true for all parts of this worker."""
        others = tuple(sorted(varying_axes(finite) - set(self._axes)))
        if self.is_one or not others:
            return finite
        return lax.psum(flag_of(finite, jnp.int32), others) == 0

    def _gather_flat(self, flat: jax.Array) -> jax.Array:
        # The result is the same everywhere, and where types say so it must too.
        # Axis by axis: vmap gathers over one axis at a time only.
        typed = self._typed_axes()
        out = flat
        for name in reversed(self._axes):
            options = {"to": "invarying"} if name in typed else {}
            out = lax.all_gather(out, name, **options)
        return out.reshape(self.size, *flat.shape)

    def refuse_summed(self, name: str, tree: Any, allow_unvarying: bool) -> None:
        """Refuses gradients that are already summed over the workers.

        Under shard_map with check_vma=True the gradient with respect to unvarying
        parameters is summed by the transpose of the cast to varying, so that every
        worker holds the same one, and a vote or an error of it means nothing.
        """
        typed = self._typed_axes()
        if not typed:
            return
        leaves = named_leaves(tree)
        summed = [name for name, x in leaves if typed - varying_axes(x)]
        if not summed or (allow_unvarying and len(summed) < len(leaves)):
            return
        remedy = (
            f"Differentiate with ef_optax.local_value_and_grad(loss, "
            f"{self.axis_name!r}), or cast the parameters with jax.lax.pcast(params, "
            f"{self.axis_name!r}, to='varying') before jax.grad; do not average the "
            "gradients, and put ef_optax.accumulate in the place of optax.MultiSteps."
        )
        if len(summed) == len(leaves):
            raise ValueError(
                f"{name}: no gradient varies over axis {self.axis_name!r}: they are "
                "already summed over the workers, as jax.grad inside jax.shard_map "
                "does for parameters that are the same on all workers. " + remedy
            )
        raise ValueError(
            f"{name}: some gradients do not vary over axis {self.axis_name!r}: "
            f"{describe_leaves(summed)}. If they were summed over the workers already, "
            "that is wrong here. " + remedy + " If they are the same on all workers "
            "on purpose (a constant, an unused parameter), pass allow_unvarying=True."
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

    def crossed(as_bytes: list[jax.Array]) -> list[jax.Array]:
        return _fused(lambda flat: [collective(x) for x in flat], as_bytes, lead)

    # Numbers by dtype first: thousands of scalars are one array when they become
    # bytes. What is bytes already, the bulk of a message, is copied only once.
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree)
    raw = [i for i, x in enumerate(leaves) if x.dtype == jnp.uint8]
    other = [i for i, x in enumerate(leaves) if x.dtype != jnp.uint8]
    out: list[Any] = [None] * len(leaves)

    def together(buffers: list[jax.Array]) -> list[jax.Array]:
        received = crossed(
            [*(leaves[i] for i in raw), *(_to_bytes(x, lead) for x in buffers)]
        )
        for i, x in zip(raw, received[: len(raw)], strict=True):
            out[i] = x
        return [
            _from_bytes(b, x.dtype)
            for b, x in zip(received[len(raw):], buffers, strict=True)
        ]

    numbers = _fused(together, [leaves[i] for i in other], lead)
    for i, x in zip(other, numbers, strict=True):
        out[i] = x
    return treedef.unflatten(out)


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

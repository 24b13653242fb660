"""The workers of a mesh axis, and the only code that calls a collective."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ef_optax._checks import describe_leaves
from ef_optax._numerics import wide

AxisName = None | str | tuple[str, ...]


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
                f"{axis_name!r}."
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
            raise NameError(
                f"axis_name={self.axis_name!r} is not bound here. Call update (and "
                "init, where it asks for the number of workers) inside jax.shard_map, "
                "jax.pmap(..., axis_name=...) or jax.vmap(..., axis_name=...) over "
                "that axis, or pass axis_name=None for one worker."
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
        return frozenset(_varying(lax.axis_index(self._axes)) & set(self._axes))

    def varying(self, tree: Any) -> Any:
        """Types every leaf as one that differs between workers."""
        typed = self._typed_axes()

        def cast(x):
            missing = tuple(n for n in self._axes if n in typed - _varying(x))
            return lax.pcast(x, missing, to="varying") if missing else x

        return jax.tree.map(cast, tree)

    def sum(self, tree: Any) -> Any:
        """Sums every leaf over the workers, in the leaf's own dtype."""
        return self._reduce(lax.psum, tree)

    def max(self, tree: Any) -> Any:
        """Takes the largest value of every element over the workers."""
        return self._reduce(lax.pmax, tree)

    def mean(self, tree: Any) -> Any:
        """Averages floating-point leaves over the workers, in at least float32."""
        total = self.sum(jax.tree.map(lambda x: x.astype(wide(x.dtype)), tree))
        return jax.tree.map(lambda t, x: (t / self.size).astype(x.dtype), total, tree)

    def _reduce(self, collective: Callable[..., Any], tree: Any) -> Any:
        if self.is_one:
            return tree
        self.check_bound()
        return _fused(
            lambda flat: collective(flat, self._axes), self.varying(tree)
        )

    def all_gather(self, tree: Any) -> Any:
        """Gathers every leaf from all workers; leaves gain a leading axis [size].

        All leaves cross as bytes in one buffer (one per set of other mesh axes that
        they vary over).
        """
        if self.is_one:
            return jax.tree.map(lambda x: x[None], tree)
        self.check_bound()
        tree = self.varying(tree)
        as_bytes = jax.tree.map(_to_bytes, tree)
        gathered = _fused(self._gather_flat, as_bytes)
        return jax.tree.map(lambda b, x: _from_bytes(b, x), gathered, tree)

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
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        summed = [
            jax.tree_util.keystr(path) for path, x in leaves if typed - _varying(x)
        ]
        if not summed or (allow_unvarying and len(summed) < len(leaves)):
            return
        remedy = (
            f"Differentiate with ef_optax.local_value_and_grad(loss, "
            f"{self.axis_name!r}), or cast the parameters with jax.lax.pcast(params, "
            f"{self.axis_name!r}, to='varying') before jax.grad."
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


def _varying(x: Any) -> frozenset[str]:
    """Returns the manual mesh axes over which the type of `x` varies."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def _fused(collective: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    """Applies a collective to one flat buffer per dtype and varying type.

    `collective` may put axes before the flat one.
    """
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree)
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(leaves):
        groups.setdefault((x.dtype, _varying(x)), []).append(i)
    out: list[Any] = [None] * len(leaves)
    for members in groups.values():
        flat = [leaves[i].reshape(-1) for i in members]
        result = collective(flat[0] if len(flat) == 1 else jnp.concatenate(flat))
        start = 0
        for i in members:
            piece = lax.slice_in_dim(
                result, start, start + leaves[i].size, axis=result.ndim - 1
            )
            out[i] = piece.reshape(*result.shape[:-1], *leaves[i].shape)
            start += leaves[i].size
    return treedef.unflatten(out)


def _to_bytes(x: jax.Array) -> jax.Array:
    """Returns the bytes of an array, flat."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.size == 0:
        return x.reshape(0).astype(jnp.uint8)  # of the same varying type
    return lax.bitcast_convert_type(x, jnp.uint8).reshape(-1)


def _from_bytes(flat: jax.Array, like: jax.Array) -> jax.Array:
    """Reads gathered bytes [size, bytes] as arrays [size, *shape of `like`]."""
    shape = (flat.shape[0], *like.shape)
    dtype = jnp.dtype(jnp.uint8) if like.dtype == jnp.bool_ else like.dtype
    if dtype.itemsize > 1:
        flat = flat.reshape(*shape, dtype.itemsize)
    return lax.bitcast_convert_type(flat, dtype).reshape(shape).astype(like.dtype)

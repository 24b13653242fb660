"""Which axes of a mesh are the workers', and what fits over them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ef_optax._checks import describe, named_leaves, shown
from ef_optax._numerics import varying_axes
from ef_optax.mesh._specs import Names, names_in
from ef_optax.workers import Workers


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which mesh axes are the workers', and over which the parameters are split."""

    mesh: Mesh | AbstractMesh
    axis_name: str | Names
    param_specs: Any = None

    def __post_init__(self) -> None:
        here, specs = self.mesh.axis_names, jax.tree.leaves(self.param_specs)
        split = {name for spec in specs for name in names_in(spec)}
        idle = [n for n in here if n not in split and n not in self.workers]
        if not self.workers or set(self.workers) - set(here) or idle:
            raise ValueError(
                f"over_workers: axis_name={self.axis_name!r} must name axes of the "
                f"mesh, which has {_names(here)}, and param_specs= the axes over which "
                f"parameters are split; they name {_names(split)}."
            )

    @property
    def workers(self) -> Names:
        """The mesh axes of the workers."""
        names = self.axis_name
        return (names,) if isinstance(names, str) else tuple(names or ())

    @property
    def count(self) -> int:
        """The number of workers."""
        return math.prod(self.mesh.shape[name] for name in self.workers)

    def specs_of_params(self, tree: Any) -> Any:
        """Returns the specs of a tree like the parameters."""
        if self.param_specs is None or not jax.tree.leaves(tree):
            return jax.tree.map(lambda _: P(), tree)
        # In the structure of the tree, and with JAX's error where it is another.
        return jax.tree.map(lambda _, spec: spec, tree, self.param_specs)

    def specs_of_gradients(self, tree: Any) -> Any:
        """Returns the specs of gradients with a leading worker axis."""
        return jax.tree.map(
            lambda spec: P(self.axis_name, *spec), self.specs_of_params(tree)
        )

    def reshard(self, tree: Any, specs: Any) -> Any:
        """Moves arrays to where they belong, where JAX leaves that to the program."""
        if set(self.mesh.axis_types) != {AxisType.Explicit}:
            return tree
        return jax.tree.map(
            lambda x, spec: jax.sharding.reshard(x, NamedSharding(self.mesh, spec)),
            tree, specs,
        )

    def check_outside(self) -> None:
        """Refuses to map over the workers where something does already."""
        found = jax.sharding.get_abstract_mesh().manual_axes
        if found or Workers(self.axis_name).is_bound:
            raise ValueError(
                "over_workers maps over the workers itself, under plain jax.jit, and "
                f"{_names(found or self.workers)} is bound here already. Inside a map "
                "use the transformation that was given to it."
            )

    def check_params(self, params: Any) -> None:
        """Refuses what is no array, or split over the workers where that is known."""
        leaves = named_leaves(params)
        others = [f"{path}: {shown(x, 40)}" for path, x in leaves
                  if not (hasattr(x, "dtype") or isinstance(x, float | int))]
        if others:
            raise TypeError(
                f"over_workers needs arrays as parameters; got {describe(others)}. Of "
                "an Equinox module take eqx.filter(model, eqx.is_inexact_array)."
            )
        split = [path for path, x in leaves
                 if set(self.workers) & set(names_in(_spec(x)))]
        if split:
            raise ValueError(
                "over_workers: these parameters are split over the axis of the workers "
                f"({_names(self.workers)}): {describe(split)}. Replicate them, "
                "jax.device_put(params, NamedSharding(mesh, P())), or split them over "
                "another axis by param_specs."
            )

    def check_gradients(self, grads: Any, params: Any) -> None:
        """Refuses gradients without the leading axis of the workers."""
        shapes = {path: jnp.shape(g) for path, g in named_leaves(grads)}
        bad = [f"{path}: {shape}" for path, shape in shapes.items()
               if shape[:1] != (self.count,)]
        structure: Any = jax.tree.structure(grads)
        if not bad and structure == jax.tree.structure(params):
            bad = [f"{path}: {shapes[path]} for a parameter {jnp.shape(p)}"
                   for path, p in named_leaves(params)
                   if shapes[path][1:] != jnp.shape(p)]
        if bad:
            raise ValueError(
                "over_workers needs the gradients of all workers, with a leading axis "
                f"of {self.count} (mesh axis {_names(self.workers)}), as "
                "jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batches) gives "
                f"them; got {describe(bad)}. What changes shapes or accumulates goes "
                "inside: over_workers(optax.flatten(...), mesh)."
            )

    def check_state(self, state: Any, owners: Any) -> None:
        """Refuses a state that was made for another number of workers."""
        bad = [
            f"{path}: {jnp.shape(x)}"
            for (path, x), owner in zip(named_leaves(state), jax.tree.leaves(owners),
                                        strict=True)
            if owner != "all" and jnp.shape(x)[:1] != (self.count,)
        ]
        if bad:
            raise ValueError(
                "over_workers: what belongs to one worker has a leading axis of "
                f"{self.count} in the state (mesh axis {_names(self.workers)}); got "
                f"{describe(bad)}. Convert it with "
                f"ef_optax.resize_workers(state, {self.count}), or make a new one with "
                "the init of what over_workers returned."
            )

    def check_same(self, what: str, tree: Any, specs: Any) -> None:
        """Refuses updates or a state that differ over axes the specs don't name."""
        structure: Any = jax.tree.structure(tree)
        if structure != jax.tree.structure(specs):
            raise ValueError(
                f"over_workers: the {what} have another structure than went in. What "
                "changes it belongs outside: optax.lookahead(over_workers(...), ...)."
            )
        stray = {
            path: axes
            for (path, x), spec in zip(named_leaves(tree), jax.tree.leaves(specs),
                                       strict=True)
            if (axes := varying_axes(x) - set(names_in(spec)))
        }
        if not stray:
            return
        axes = frozenset[str]().union(*stray.values())
        raise ValueError(
            f"over_workers: these leaves of the {what} differ along {_names(axes)}: "
            f"{describe(list(stray))}. " + (_REMEDIES[what].format(self.axis_name)
                                            if axes & set(self.workers) else _MODEL)
        )


_REMEDIES = {
    "updates": (
        "They were not exchanged. Pass axis_name={0!r} to the exchange, as in "
        "error_feedback(scaled_sign(), axis_name={0!r}); in place of optax.masked use "
        "ef_optax.exempt, and in optax.partition give every group an exchange, such as "
        "compress(identity(), axis_name={0!r}); to freeze parameters chain "
        "optax.masked(optax.set_to_zero(), frozen) after the exchange."
    ),
    "state": (
        "Put ef_optax.local(..., {0!r}) around what keeps state before the exchange, "
        "such as momentum; a state of your own says by a class attribute, "
        "per_worker = ('field', ...), which of its fields belong to one worker. "
        "optax.lookahead belongs outside of over_workers."
    ),
}
_MODEL = (
    "Every part of a parameter that is split over the model is compressed alone, so "
    "nothing may look at the whole tree (a compressor with per='tree', a global norm): "
    "use per='leaf', and put the rest outside of over_workers."
)


def _spec(x: Any) -> P:
    """Returns how an array is split, where that is known; else P()."""
    sharding = jax.typeof(x).sharding if isinstance(x, jax.core.Tracer) else getattr(
        x, "sharding", None)
    return getattr(sharding, "spec", P())


def _names(axes: Any) -> str:
    return ", ".join(repr(n) for n in sorted(axes)) or "none"

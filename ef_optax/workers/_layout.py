"""What over_workers accepts: a mesh, gradients and a state that fit it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ef_optax._checks import describe_leaves, named_leaves, shown
from ef_optax._numerics import varying_axes
from ef_optax.workers._local import per_worker_leaves
from ef_optax.workers._specs import Names, names_in, state_specs
from ef_optax.workers._workers import Workers


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which mesh axes are the workers', and over which the parameters are split."""

    mesh: Mesh | AbstractMesh
    axis_name: str | Names
    param_specs: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.mesh, Mesh | AbstractMesh):
            raise TypeError(
                f"over_workers needs a jax.sharding.Mesh, such as worker_mesh(); got "
                f"{shown(self.mesh)}."
            )
        Workers(self.axis_name)  # refuses what is no name
        here = self.mesh.axis_names
        missing = [n for n in self.workers if n not in here]
        if missing or not self.workers:
            raise ValueError(
                f"over_workers: axis_name={self.axis_name!r} must name axes of the "
                f"mesh, which has {_names(here)}. Pass one of these as axis_name, or "
                "make the mesh with ef_optax.worker_mesh()."
            )
        split = self._check_specs()
        idle = [n for n in here if n not in split and n not in self.workers]
        if idle:
            raise ValueError(
                f"over_workers: {_names(idle)} of the mesh is neither the workers' "
                f"({_names(self.workers)}) nor named in param_specs. Let it count as "
                f"workers, axis_name={(*self.workers, *idle)!r}, or say by param_specs "
                "which parameters are split over it."
            )

    def _check_specs(self) -> Names:
        """Returns the axes over which parameters are split."""
        split: Names = ()
        for path, spec in jax.tree_util.tree_leaves_with_path(self.param_specs):
            where = f"param_specs{jax.tree_util.keystr(path)}"
            if not isinstance(spec, P) or P.UNCONSTRAINED in tuple(spec):
                raise TypeError(
                    f"over_workers: {where} must be a PartitionSpec of names and None; "
                    f"got {spec!r}."
                )
            split += names_in(spec)
            for name in names_in(spec):
                if name in self.workers or name not in self.mesh.axis_names:
                    free = [n for n in self.mesh.axis_names if n not in self.workers]
                    raise ValueError(
                        f"over_workers: {where}={spec} names {name!r}; parameters are "
                        "the same on all workers, and may be split over the other mesh "
                        f"axes only: {_names(free)}."
                    )
        return split

    @property
    def workers(self) -> Names:
        """The mesh axes of the workers."""
        names = self.axis_name
        return (names,) if isinstance(names, str) else tuple(names or ())

    @property
    def count(self) -> int:
        """The number of workers."""
        return math.prod(self.mesh.shape[name] for name in self.workers)

    def specs_of_params(self, what: str, tree: Any) -> Any:
        """Returns the specs of a tree like the parameters."""
        given: Any = jax.tree.structure(tree)
        if self.param_specs is None or given.num_leaves == 0:
            return jax.tree.map(lambda _: P(), tree)
        wanted: Any = jax.tree.structure(self.param_specs)
        if given != wanted:
            raise ValueError(
                f"over_workers: {what} must have the structure of param_specs, "
                f"{shown(wanted)}; got {shown(given)}. Give a PartitionSpec for every "
                "parameter, P() for one that is not split."
            )
        return self.param_specs

    def specs_of_gradients(self, tree: Any) -> Any:
        """Returns the specs of gradients with a leading worker axis."""
        return jax.tree.map(
            lambda spec: P(self.axis_name, *spec),
            self.specs_of_params("gradients", tree),
        )

    def specs_of_state(self, state: Any) -> Any:
        """Returns the specs of a state with leading worker axes."""
        return state_specs(state, self.axis_name, param_specs=self.param_specs)

    def reshard(self, tree: Any, specs: Any) -> Any:
        """Moves arrays to where they belong, where JAX leaves that to the program."""
        if set(self.mesh.axis_types) != {AxisType.Explicit}:
            return tree
        return jax.tree.map(
            lambda x, spec: jax.sharding.reshard(x, NamedSharding(self.mesh, spec)),
            tree, specs,
        )

    def check_devices(self, tree: Any) -> None:
        """Refuses arrays where an abstract mesh has no devices to put them on."""
        leaves = jax.tree.leaves(tree)
        abstract = isinstance(self.mesh, AbstractMesh)
        if abstract and any(not isinstance(x, jax.core.Tracer) for x in leaves):
            raise ValueError(
                f"over_workers: {self.mesh!r} has no devices. It tells the shapes of a "
                "state, jax.eval_shape(tx.init, params); for the state itself give a "
                "mesh of devices, such as worker_mesh()."
            )

    def check_outside(self) -> None:
        """Refuses to map over the workers where something does already."""
        found = jax.sharding.get_abstract_mesh().manual_axes
        if found or Workers(self.axis_name).is_bound:
            names = found or self.workers
            raise ValueError(
                "over_workers maps over the workers itself, under plain jax.jit, and "
                f"{_names(names)} is bound here already. Inside jax.shard_map, "
                "jax.pmap or jax.vmap use the transformation that was given to it."
            )

    def check_gradients(self, grads: Any, params: Any) -> None:
        """Refuses gradients without the leading axis of the workers."""
        bad = [
            f"{path}: {jnp.shape(g)}" for path, g in named_leaves(grads)
            if jnp.shape(g)[:1] != (self.count,)
        ]
        given: Any = jax.tree.structure(grads)
        if not bad and given == jax.tree.structure(params):
            bad = [
                f"{path}: {jnp.shape(g)} for a parameter {jnp.shape(p)}"
                for (path, g), p in zip(
                    named_leaves(grads), jax.tree.leaves(params), strict=True
                )
                if jnp.shape(g)[1:] != jnp.shape(p)
            ]
        if bad:
            raise ValueError(
                "over_workers needs the gradients of all workers, with a leading axis "
                f"of {self.count} (mesh axis {_names(self.workers)}), as "
                "jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batches) gives "
                f"them of batches with such an axis; got {describe_leaves(bad)}."
            )

    def check_state(self, state: Any) -> None:
        """Refuses a state that was made for another number of workers."""
        bad = [
            f"{path}: {jnp.shape(x)}"
            for (path, x), own in zip(
                named_leaves(state), jax.tree.leaves(per_worker_leaves(state)),
                strict=True,
            )
            if own and jnp.shape(x)[:1] != (self.count,)
        ]
        if bad:
            raise ValueError(
                "over_workers: what belongs to one worker has a leading axis of "
                f"{self.count} in the state (mesh axis {_names(self.workers)}); got "
                f"{describe_leaves(bad)}. Convert a state that was made for another "
                f"number of workers with ef_optax.resize_workers(state, {self.count}); "
                "make a new one with the init of what over_workers returned."
            )

    def check_updates(self, updates: Any, specs: Any) -> None:
        """Refuses updates that their types do not know to be the same everywhere."""
        stray = self._stray(updates, specs)
        if stray is None:
            return
        where, axes = stray
        if axes & set(self.workers):
            raise ValueError(
                f"over_workers: the updates still differ between the workers: {where}. "
                f"Pass axis_name={self.axis_name!r} to the exchange, as in "
                f"ef_optax.majority_vote({self.axis_name!r}) or "
                f"error_feedback(scaled_sign(), axis_name={self.axis_name!r}), and to "
                "ef_optax.exempt, which is to be used instead of optax.masked."
            )
        raise ValueError(
            f"over_workers: these parameters are not split over {_names(axes)}, but "
            f"their updates differ between its parts: {where}. Every part of the model "
            "is compressed alone, so nothing may look at the whole tree (a compressor "
            "with per='tree', a global norm): use per='leaf', and put the rest outside "
            "of over_workers."
        )

    def check_new_state(self, state: Any, specs: Any) -> None:
        """Refuses a state that differs where nothing says so."""
        stray = self._stray(state, specs)
        if stray is None:
            return
        where, axes = stray
        if axes & set(self.workers):
            raise ValueError(
                f"over_workers: the state differs between the workers and does not "
                f"say so: {where}. Put ef_optax.local(..., {self.axis_name!r}) around "
                "what keeps state before the exchange, such as momentum; declare "
                "fields of your own states with ef_optax.workers.per_worker."
            )
        raise ValueError(
            f"over_workers: the state differs between the parts of the model on "
            f"{_names(axes)}, and has not the shape of parameters that are split over "
            f"it: {where}. Such a transformation works over workers only."
        )

    def _stray(self, tree: Any, specs: Any) -> tuple[str, frozenset[str]] | None:
        """Returns which leaves vary over axes that their specs do not name, and these.

        None if there are no such leaves.
        """
        found = {}
        for (name, x), spec in zip(
            named_leaves(tree), jax.tree.leaves(specs), strict=True
        ):
            axes = varying_axes(x) - set(names_in(spec))
            if axes:
                found[name] = axes
        if not found:
            return None
        return describe_leaves(list(found)), frozenset().union(*found.values())


def _names(axes: Any) -> str:
    return ", ".join(repr(n) for n in sorted(axes)) or "none"

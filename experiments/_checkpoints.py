"""Checkpoints of the whole state of all workers, written by all processes together."""

from __future__ import annotations

import logging
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

import ef_optax
from experiments._registry import StudyError


class Checkpoints:
    """A directory of checkpoints of optimizer state and what goes with it.

    The state is any pytree that holds what :func:`ef_optax.over_workers` made: what
    belongs to one worker has a leading worker axis, and each process writes the rows
    of its own workers. A checkpoint is there whole or not at all.

    Args:
      path: the directory, the same for all processes.
      mesh: of the workers.
      keep: how many of the latest checkpoints to keep.
    """

    def __init__(self, path: str | os.PathLike[str], mesh: Mesh, keep: int = 2):
        try:
            import orbax.checkpoint as ocp
        except ModuleNotFoundError as error:
            raise StudyError(
                "checkpoints need Orbax: pip install orbax-checkpoint"
            ) from error
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp, self._mesh = ocp, mesh
        self.path = pathlib.Path(path).absolute()
        self._manager = ocp.CheckpointManager(
            self.path,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False
            ),
            item_names=("state", "layout"),
        )

    @property
    def latest(self) -> int | None:
        """The step of the latest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint; all processes call it, and it is there on return."""
        state = raw(state)
        layout = {
            "workers": self._mesh.size,
            "leaves": [[list(x.shape), str(x.dtype)] for x in jax.tree.leaves(state)],
        }
        args = self._ocp.args
        self._manager.save(step, args=args.Composite(
            state=args.StandardSave(state), layout=args.JsonSave(layout)
        ))

    def restore(self, like: Any, resize: bool = False) -> Any:
        """Returns the state of the latest checkpoint, placed on the mesh.

        Args:
          like: shapes and dtypes of the state for this mesh, as from ``eval_shape``.
          resize: whether a checkpoint of another number of workers is welcome.

        Raises:
          StudyError: if it is of another number of workers, or not of such a state.
        """
        step, args, workers = self.latest, self._ocp.args, self._mesh.size
        about = self._manager.restore(
            step, args=args.Composite(layout=args.JsonRestore())
        ).layout
        saved, layout = about["workers"], about["leaves"]
        if saved != workers and not resize:
            raise StudyError(
                f"the checkpoint of step {step} in {self.path} holds the state of "
                f"{saved} workers, and here are {workers}. ef_optax.resize_workers("
                f"state, {workers}) makes state for them: pass --resize."
            )
        leaves: list[Any]
        treedef: Any
        leaves, treedef = jax.tree.flatten(jax.eval_shape(raw, like))
        if len(layout) != len(leaves):
            raise StudyError(
                f"the checkpoint of step {step} in {self.path} has {len(layout)} "
                f"arrays, and the state {len(leaves)}: it is of another optimizer or "
                "network."
            )
        shardings = jax.tree.leaves(jax.tree.map(
            lambda spec: NamedSharding(self._mesh, spec), ef_optax.state_specs(like)
        ))
        if saved == workers:
            found = [[list(x.shape), str(x.dtype)] for x in leaves]
            if found != layout:
                raise StudyError(
                    f"the checkpoint of step {step} in {self.path} has arrays of other "
                    "shapes or dtypes: it is of another optimizer or network."
                )
            placed = [
                jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
                for x, s in zip(leaves, shardings, strict=True)
            ]
            return typed(self._read(step, treedef.unflatten(placed)), like)
        # Every process reads all workers' rows, and makes its own of them.
        whole: Any = [np.empty(shape, dtype) for shape, dtype in layout]
        whole = typed(self._read(step, treedef.unflatten(whole)), like)
        return place(
            ef_optax.resize_workers(whole, workers), treedef.unflatten(shardings)
        )

    def _read(self, step: int | None, target: Any) -> Any:
        args = self._ocp.args
        read = self._manager.restore(
            step, args=args.Composite(state=args.StandardRestore(target))
        )
        return read.state

    def close(self) -> None:
        """Waits for what is still to be done."""
        self._manager.close()


def place(tree: Any, shardings: Any) -> Any:
    """Puts arrays that every process has whole onto the devices of all of them."""

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        data = np.asarray(x)
        return jax.make_array_from_callback(data.shape, sharding, lambda i: data[i])

    return typed(jax.tree.map(put, raw(tree), shardings), tree)


def raw(tree: Any) -> Any:
    """Returns a tree with the numbers of random keys in their place."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def typed(tree: Any, like: Any) -> Any:
    """Returns a tree with random keys where `like` has them: undoes `raw`."""

    def wrap(x: Any, old: Any) -> Any:
        if not _is_key(old):
            return x
        # Of a dtype alone, which is all that shapes have.
        impl = jax.random.key_impl(jnp.zeros((), old.dtype))
        return jax.random.wrap_key_data(x, impl=impl)

    return jax.tree.map(wrap, tree, like)


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)

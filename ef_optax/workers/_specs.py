"""Where the leaves of a state live on a mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ef_optax._checks import leaf_dtype
from ef_optax.workers._local import leaf_kinds, refuse_plain

Names = tuple[str, ...]


def state_specs(
    state: Any,
    axis_name: str | tuple[str, ...] = "workers",
    *,
    param_specs: Any = None,
) -> Any:
    """Returns how a state made by :func:`ef_optax.over_workers` is placed on the mesh.

    What belongs to one worker has a leading worker axis and is split along it; all
    else is the same on all workers. With `param_specs`, what has the shape of the
    parameters is split as they are: a leaf of floating-point numbers whose path ends
    in the path of a parameter.

    Args:
      state: a state, or its shapes from ``jax.eval_shape(tx.init, params)``.
      axis_name: the mesh axis of the workers, or a tuple of them.
      param_specs: a pytree of :class:`jax.sharding.PartitionSpec` like the parameters,
        as given to :func:`ef_optax.over_workers`; None if they are not split.

    Returns:
      A pytree of :class:`jax.sharding.PartitionSpec` like the state, for
      :func:`jax.device_put`, ``in_shardings``, ``in_specs``, or to restore a
      checkpoint.

    Raises:
      TypeError: if a dict stands where one of this package's states was.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> from jax.sharding import NamedSharding
      >>> mesh = ef_optax.worker_mesh()
      >>> tx = ef_optax.over_workers(ef_optax.error_feedback(
      ...     ef_optax.scaled_sign(), axis_name="workers"), mesh)
      >>> shapes = jax.eval_shape(tx.init, {"w": jnp.zeros(3)})
      >>> specs = ef_optax.state_specs(shapes)
      >>> print(specs.error, specs.count)
      {'w': P('workers',)} P()
      >>> shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    """
    refuse_plain("state_specs", state)
    table = {} if param_specs is None else dict(
        jax.tree_util.tree_leaves_with_path(param_specs)
    )

    def spec_of(path: tuple[Any, ...], leaf: Any, kind: str) -> P:
        own = of_param(path, leaf, kind, table)
        if kind == "rows":
            # The rows that one worker holds for all shards of the parameter.
            axes = names_in(own)
            own = P(axes) if axes else P()
        return own if kind == "same" else P(axis_name, *own)

    return jax.tree_util.tree_map_with_path(spec_of, state, leaf_kinds(state))


def of_param(path: tuple[Any, ...], leaf: Any, kind: str, table: Any) -> P:
    """Returns the spec of the parameter that a leaf of a state is like."""
    if not table or not jnp.issubdtype(leaf_dtype(leaf), jnp.floating):
        return P()
    found = next(
        (table[path[i:]] for i in range(len(path) + 1) if path[i:] in table), P()
    )
    rank = jnp.ndim(leaf) - (kind != "same")
    return found if kind == "rows" or len(found) <= rank else P()


def names_in(spec: P) -> Names:
    """Returns the mesh axes that a spec names, in order."""
    found: list[str] = []
    for entry in spec:
        found += (entry,) if isinstance(entry, str) else (entry or ())
    return tuple(found)

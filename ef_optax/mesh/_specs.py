"""Where the leaves of a state live on a mesh."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ef_optax._checks import shown
from ef_optax._numerics import leaf_dtype
from ef_optax.exchange import TwoWayState
from ef_optax.feedback import ErrorFeedbackState
from ef_optax.workers import state_owners
from ef_optax.wrappers import AccumulateState

Names = tuple[str, ...]

# A dict with just these keys was one of these states, and lost its type.
_STATES = (ErrorFeedbackState, TwoWayState, AccumulateState)


def state_specs(
    state: Any, axis_name: str | tuple[str, ...] = "workers", *, param_specs: Any = None
) -> Any:
    """Tells where on the mesh each leaf of a state lives; for checkpoints and ``jit``.

    What belongs to one worker has a leading worker axis and is split along it; all else
    is the same on all workers. With `param_specs`, what has the shape of the parameters
    is split as they are: floating-point leaves whose path ends in that of a parameter.

    Args:
      state: a state, or its shapes from ``jax.eval_shape(tx.init, params)``.
      axis_name, param_specs: as given to :func:`ef_optax.over_workers`.

    Returns:
      A pytree of :class:`jax.sharding.PartitionSpec` like the state, for
      :func:`jax.device_put`, ``in_shardings``, ``in_specs`` or a checkpoint.

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
    return specs_of(state, state_owners(state), axis_name, param_specs)


def specs_of(state: Any, owners: Any, axis_name: Any, param_specs: Any) -> Any:
    """Returns what `state_specs` does, of a state whose owners are known."""
    table = dict(jax.tree_util.tree_leaves_with_path(param_specs))

    def spec_of(path: tuple[Any, ...], leaf: Any, owner: str) -> P:
        own = of_param(path, leaf, owner, table)
        if owner == "shard":
            # The rows that one worker holds for all shards of the parameter.
            axes = names_in(own)
            own = P(axes) if axes else P()
        return own if owner == "all" else P(axis_name, *own)

    return jax.tree_util.tree_map_with_path(spec_of, state, owners)


def of_param(path: tuple[Any, ...], leaf: Any, owner: str, table: Any) -> P:
    """Returns the spec of the parameter that a leaf of a state is like."""
    if not table or not jnp.issubdtype(leaf_dtype(leaf), jnp.floating):
        return P()
    tails = (path[i:] for i in range(len(path) + 1))
    found = next((table[tail] for tail in tails if tail in table), P())
    rank = jnp.ndim(leaf) - (owner != "all")
    return found if owner == "shard" or len(found) <= rank else P()


def names_in(spec: P) -> Names:
    """Returns the mesh axes that a spec names, in order."""
    found: list[str] = []
    for entry in spec:
        found += (entry,) if isinstance(entry, str) else (entry or ())
    return tuple(found)


def refuse_plain(name: str, state: Any) -> None:
    """Refuses a dict that was a state, as in a checkpoint restored without a tree."""
    types = {frozenset(kind._fields): kind.__name__ for kind in _STATES}

    def lost(node: Any) -> bool:
        return isinstance(node, Mapping) and frozenset(node) in types

    for node in filter(lost, jax.tree.leaves(state, is_leaf=lost)):
        raise TypeError(
            f"{name}: a dict has the fields of {types[frozenset(node)]}, whose type "
            f"says which of them belong to one worker; got {shown(list(node))}. "
            "Restore the checkpoint into the tree of jax.eval_shape(tx.init, params)."
        )

"""Who owns which leaf of an optimizer state: one worker, or all of them alike.

The class of a state says it, in plain class attributes beside its fields:

- ``per_worker``: names of the fields of which every worker has its own.
- ``padding_field``: name of the field that says of each leaf by how many numbers the
  shards of all workers exceed it; there if the ``per_worker`` fields are such shards.
- ``goes_on``: names of the fields that a step changes even if
  :func:`ef_optax.skip_nonfinite` does not take it.
"""

from typing import Any

import jax


def declares(node: Any) -> bool:
    """Returns whether a node of a state says what belongs to one worker."""
    return hasattr(type(node), "per_worker")


def state_owners(state: Any) -> Any:
    """Returns of each leaf of a state whose it is: "worker", "shard" or "all".

    "worker" is what each worker has for itself, "shard" the part of a flattened
    parameter that it serves, "all" what is the same on all workers.
    """

    def mark(node: Any) -> Any:
        if not declares(node):
            return "all"
        kind = "shard" if hasattr(node, "padding_field") else "worker"
        return type(node)(*(
            jax.tree.map(lambda _: kind, value)
            if field in type(node).per_worker else state_owners(value)
            for field, value in zip(node._fields, node, strict=True)
        ))

    return jax.tree.map(mark, state, is_leaf=declares)


def per_worker_leaves(state: Any) -> Any:
    """Returns a pytree of booleans: which leaves of a state belong to one worker."""
    return jax.tree.map(lambda owner: owner != "all", state_owners(state))

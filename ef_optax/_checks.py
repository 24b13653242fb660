"""Checks that several methods share: what was given, and what to do instead."""

import math
import operator
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from ef_optax._numerics import concrete


def warn(message: str) -> None:
    """Warns at the line of the user, outside this package and what calls it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(
        ("ef_optax.", "optax.", "jax.")
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def shown(value: Any, limit: int = 200) -> str:
    """Returns the repr of what was given, on one line; of a whole model, its start."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a pytree with their paths, as messages name them."""
    return [
        (jax.tree_util.keystr(path) or "the only leaf", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def describe(leaves: list[str], limit: int = 5) -> str:
    """Joins what is said of some leaves, the first few only."""
    more = len(leaves) - limit
    return ", ".join(leaves[:limit]) + (f" and {more} more" if more > 0 else "")


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuses a value that is not one of `allowed`, which would mean a default."""
    if value not in allowed:
        options = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {options}; got {shown(value)}.")


def check_interval(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Refuses a number outside [low, high], and NaN; what is traced passes."""
    number = concrete(value)
    if number is not None and not low <= number <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}]; got {value!r}.")


def check_count(name: str, value: Any) -> int:
    """Returns a number of things, at least one, as an int; shapes depend on it."""
    count = operator.index(value)
    if count < 1:
        raise ValueError(f"{name} must be at least 1; got {count}.")
    return count


def check_float_leaves(name: str, tree: Any) -> None:
    """Refuses arrays of integers, booleans and complex numbers."""
    wrong = [
        f"{path}: {dtype}" for path, leaf in named_leaves(tree)
        if not jnp.issubdtype(dtype := jnp.result_type(leaf), jnp.floating)
    ]
    if wrong:
        raise ValueError(
            f"{name} needs leaves of a real floating-point dtype; got "
            f"{describe(wrong)}. Cast them, or leave them out with optax.masked."
        )


def check_updates(name: str, updates: Any, like: Any) -> Any:
    """Returns updates as arrays; refuses those of other shapes than `like`.

    They would be broadcast, into the error or into the parameters.

    Args:
      name: of the transformation.
      updates: what it was given.
      like: the parameters, or what is kept of their shapes; None to compare nothing.
    """
    updates = jax.tree.map(jnp.asarray, updates)
    check_float_leaves(name, updates)
    structure: Any = jax.tree.structure(updates)
    if like is None or structure != jax.tree.structure(like):
        return updates  # of another structure: jax.tree.map says so
    pairs = [
        (path, u.shape, jnp.shape(x))
        for (path, u), x in zip(named_leaves(updates), jax.tree.leaves(like),
                                strict=True)
    ]
    wrong = [f"{path}: {got} for {wanted}" for path, got, wanted in pairs
             if got != wanted]
    if wrong:
        axis = ""
        if all(wanted in (got[1:], got) or got == wanted[1:]
               for _, got, wanted in pairs):
            axis = (
                " A leading worker axis belongs outside: call update inside "
                "jax.shard_map, jax.pmap or jax.vmap, or wrap the transformation in "
                "ef_optax.over_workers."
            )
        raise ValueError(
            f"{name} was given updates of other shapes than the parameters: "
            f"{describe(wrong)}.{axis}"
        )
    return updates


def check_state(name: str, state: Any, kind: type) -> None:
    """Refuses the state of something else, from which part would be dropped."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{name} needs the {kind.__name__} that its init made; got a "
            f"{type(state).__name__}. Restore a checkpoint into the tree of init."
        )

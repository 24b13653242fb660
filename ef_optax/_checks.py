"""Argument checks: what was given, what is allowed, what to do instead."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def warn(message: str) -> None:
    """Warns at the line outside this package that called into it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("ef_optax."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def concrete(value: Any) -> float | None:
    """Returns a number for a concrete scalar, None for a traced or other value."""
    if isinstance(value, jax.core.Tracer) or value is None or callable(value):
        return None
    if isinstance(value, bool | str):
        return None
    if isinstance(value, int | float | np.ndarray | np.generic | jax.Array):
        return float(value) if np.ndim(value) == 0 else None
    return None


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuses a value that is not one of `allowed`."""
    if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
        options = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name} must be one of {options}; got {value!r}.")


def check_interval(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
) -> None:
    """Refuses a concrete number outside [low, high], or (low, high]; NaN too."""
    number = concrete(value)
    if number is None:
        if not isinstance(value, jax.core.Tracer) or value.ndim > 0:
            raise TypeError(f"{name} must be a number; got {value!r}.")
        return
    inside = (low < number if open_low else low <= number) and number <= high
    if not inside:
        left, right = ("(" if open_low else "["), (")" if math.isinf(high) else "]")
        bounds = f"{left}{low:g}, {'infinity' if math.isinf(high) else f'{high:g}'}"
        raise ValueError(f"{name} must be in {bounds}{right}; got {value!r}.")


def check_rate(value: Any) -> None:
    """Refuses a learning rate that is neither a schedule nor a number from 0 on."""
    if not callable(value):
        check_interval("learning_rate", value, 0.0)


def check_static_int(name: str, value: Any, low: int) -> int:
    """Returns `value` as an int of at least `low`; shapes depend on it."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} decides the shape of the message, so it must be a Python int, "
            "not a traced value; with optax.inject_hyperparams name it in static_args."
        )
    if isinstance(value, bool) or not (
        isinstance(value, int | np.integer)
        or (isinstance(value, np.ndarray | jax.Array) and value.ndim == 0
            and jnp.issubdtype(value.dtype, jnp.integer))
    ):
        raise TypeError(f"{name} must be an int; got {value!r}.")
    if int(value) < low:
        raise ValueError(f"{name} must be at least {low}; got {int(value)}.")
    return int(value)


def describe_leaves(paths: list[str], limit: int = 5) -> str:
    """Joins leaf paths for a message, the first few only."""
    shown = ", ".join(paths[:limit])
    more = len(paths) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def check_float_leaves(name: str, tree: Any) -> None:
    """Refuses integer, boolean, complex and key leaves."""
    bad = [
        f"{name}: {leaf.dtype}" for name, leaf in named_leaves(tree)
        if hasattr(leaf, "dtype") and not jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if bad:
        raise ValueError(
            f"{name} needs leaves of a real floating-point dtype; got "
            f"{describe_leaves(bad)}. Leave them out with optax.masked, or split "
            "complex leaves with optax.contrib.split_real_and_imaginary."
        )


def float_arrays(name: str, tree: Any) -> Any:
    """Returns the leaves as JAX arrays; refuses those that are no real floats."""
    tree = jax.tree.map(jnp.asarray, tree)
    check_float_leaves(name, tree)
    return tree


def leaf_dtype(x: Any) -> Any:
    """Returns the dtype of an array, a ShapeDtypeStruct or a Python float."""
    return x.dtype if hasattr(x, "dtype") else jnp.result_type(x)


def check_transformation(name: str, tx: Any) -> None:
    """Refuses what is not an optax transformation."""
    if not isinstance(tx, optax.GradientTransformation):
        called = getattr(tx, "__name__", None)
        raise TypeError(
            f"{name} needs an optax transformation; got {tx!r}."
            + (f" Did you mean {called}(...)?" if called else "")
        )


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a pytree with their paths, as messages name them."""
    return [
        (jax.tree_util.keystr(path) or "the only leaf", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def check_float_dtype(name: str, dtype: Any) -> np.dtype:
    """Returns a floating-point dtype; refuses any other, and None."""
    try:
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"{name} must be a floating-point dtype; got {dtype!r}.")
    return found


def size_of(x: Any) -> int:
    """Returns the number of elements of an array or a ShapeDtypeStruct."""
    return math.prod(jnp.shape(x) if not hasattr(x, "shape") else x.shape)


def check_same_structure(name: str, updates: Any, state: Any) -> None:
    """Refuses updates whose structure or shapes are not those seen by init."""
    given: Any = jax.tree.structure(updates)
    wanted: Any = jax.tree.structure(state)
    if given != wanted:
        raise ValueError(
            f"{name} was initialised for another tree than it is updated with: "
            f"init saw {wanted}, update was given {given}. Initialise the state with "
            "the parameters whose gradients you pass."
        )
    bad = [
        f"{path}: {jnp.shape(leaf)} instead of {jnp.shape(kept)}"
        for (path, leaf), kept in zip(
            named_leaves(updates), jax.tree.leaves(state), strict=True
        )
        if jnp.shape(leaf) != jnp.shape(kept)
    ]
    if bad:
        raise ValueError(
            f"{name} was given updates of other shapes than at init: "
            f"{describe_leaves(bad)}. A leading worker axis belongs outside: see "
            "'Distributed' in the README."
        )

"""Argument checks: what was given, what is allowed, what to do instead."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


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


def forgotten_call(value: Any) -> str:
    """Returns the hint that a function of optax or of this package was not called."""
    named = inspect.isfunction(value) or inspect.isclass(value)
    if not named or value.__name__ == "<lambda>" or "<locals>" in value.__qualname__:
        return ""
    return f" Did you mean {value.__name__}(...)?"


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
        raise ValueError(f"{name} must be one of {options}; got {shown(value)}.")


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
            raise TypeError(
                f"{name} must be a number; got {shown(value)}."
                + (_SCHEDULE if callable(value) else "")
            )
        return
    inside = (low < number if open_low else low <= number) and number <= high
    if not inside:
        left, right = ("(" if open_low else "["), (")" if math.isinf(high) else "]")
        bounds = f"{left}{low:g}, {'infinity' if math.isinf(high) else f'{high:g}'}"
        raise ValueError(f"{name} must be in {bounds}{right}; got {value!r}.")


_SCHEDULE = " For a schedule use optax.inject_hyperparams."


def check_rate(value: Any) -> None:
    """Refuses a learning rate that is neither a schedule nor a number from 0 on."""
    if callable(value):
        return
    if concrete(value) is None and not isinstance(value, jax.core.Tracer):
        raise TypeError(
            "learning_rate must be a number or a schedule (a function from the step "
            f"to one); got {shown(value)}."
        )
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
        raise TypeError(f"{name} must be an int; got {shown(value)}.")
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
        f"{path}: {found}" for path, leaf in named_leaves(tree)
        if (found := _no_float(leaf)) is not None
    ]
    if bad:
        raise ValueError(
            f"{name} needs leaves of a real floating-point dtype; got "
            f"{describe_leaves(bad)}. Cast them, leave them out with optax.masked, or "
            "split complex leaves with optax.contrib.split_real_and_imaginary."
        )


def _no_float(leaf: Any) -> str | None:
    """Returns what a leaf is that is no real float, None if it is one."""
    try:
        dtype = leaf_dtype(leaf)
        return None if jnp.issubdtype(dtype, jnp.floating) else str(dtype)
    except TypeError:  # no array of JAX or NumPy, and no number
        return f"a {type(leaf).__name__}"


def float_arrays(name: str, tree: Any) -> Any:
    """Returns the leaves as JAX arrays; refuses those that are no real floats."""
    try:
        arrays = jax.tree.map(jnp.asarray, tree)
    except TypeError:
        check_float_leaves(name, tree)
        raise
    check_float_leaves(name, arrays)
    return arrays


def leaf_dtype(x: Any) -> Any:
    """Returns the dtype of an array, a ShapeDtypeStruct or a Python float, in JAX."""
    dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
    # NumPy's float64 is float32 in JAX, which warns of it where an array is made so.
    of_numpy = isinstance(dtype, np.dtype)
    return jax.dtypes.canonicalize_dtype(dtype) if of_numpy else dtype


def check_transformation(name: str, tx: Any) -> None:
    """Refuses what is not an optax transformation."""
    if not isinstance(tx, optax.GradientTransformation):
        hint = forgotten_call(tx)
        if isinstance(tx, optax.MultiSteps):
            hint = " Use ef_optax.accumulate, or pass its gradient_transformation()."
        raise TypeError(f"{name} needs an optax transformation; got {shown(tx)}.{hint}")


def check_state(name: str, state: Any, kind: type) -> None:
    """Refuses a state that is not the one of this transformation."""
    if not isinstance(state, kind):
        got = "None" if state is None else _article(type(state))
        raise TypeError(
            f"{name} needs the state that its init made, {_article(kind)}; got {got}. "
            "Call update(updates, state, params) with the state of init or of the last "
            "update; restore a checkpoint into the tree of init(params)."
        )


def _article(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


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


def tree_difference(given: Any, wanted: Any) -> str:
    """Says what update was given in another structure than init saw."""
    here, there = ([path for path, _ in named_leaves(t)] for t in (given, wanted))
    more = [path for path in here if path not in set(there)]
    less = [path for path in there if path not in set(here)]
    said = []
    if less:
        said.append(f"init saw {describe_leaves(less)}, which update was not given")
    if more:
        said.append(f"update was given {describe_leaves(more)}, which init did not see")
    if said:
        return ", and ".join(said)
    return (
        f"init saw {shown(jax.tree.structure(wanted))}, update was given "
        f"{shown(jax.tree.structure(given))}"
    )


def check_same_structure(name: str, updates: Any, state: Any) -> None:
    """Refuses updates whose structure or shapes are not those seen by init."""
    given: Any = jax.tree.structure(updates)
    if given != jax.tree.structure(state):
        raise ValueError(
            f"{name} was initialised for another tree than it is updated with: "
            f"{tree_difference(updates, state)}. Initialise the state with the "
            "parameters whose gradients you pass."
        )
    _check_shapes(
        f"{name} was given updates of other shapes than at init", updates, state,
        "instead of",
    )


def check_like_params(name: str, updates: Any, params: Any) -> None:
    """Refuses updates of other shapes than the parameters, where these are given.

    What keeps nothing like the parameters would pass them on, and the sum with the
    parameters would be broadcast.
    """
    given: Any = jax.tree.structure(updates)
    if params is not None and given == jax.tree.structure(params):
        _check_shapes(
            f"{name} was given updates of other shapes than the parameters", updates,
            params, "for a parameter",
        )


def _check_shapes(what: str, updates: Any, like: Any, link: str) -> None:
    pairs = [
        (path, jnp.shape(leaf), jnp.shape(kept))
        for (path, leaf), kept in zip(
            named_leaves(updates), jax.tree.leaves(like), strict=True
        )
    ]
    bad = [
        f"{path}: {given} {link} {wanted}"
        for path, given, wanted in pairs if given != wanted
    ]
    if not bad:
        return
    if all(given[1:] == wanted and given for _, given, wanted in pairs):
        remedy = (
            "A leading worker axis belongs outside: call update inside jax.shard_map, "
            "jax.pmap or jax.vmap, or wrap the transformation in ef_optax.over_workers."
        )
    elif all(wanted[1:] == given and wanted for _, given, wanted in pairs):
        remedy = (
            "The state has a leading worker axis, which belongs outside: map it, as "
            "jax.pmap does with in_axes=0, or take state and gradients of all workers "
            "to the update of ef_optax.over_workers."
        )
    else:
        remedy = "Pass the gradients of the parameters that init was called with."
    raise ValueError(f"{what}: {describe_leaves(bad)}. {remedy}")

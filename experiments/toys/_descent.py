"""A whole descent as one `jax.lax.scan`, and the step sizes that it may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Step sizes by name, of the step t = 0, 1, ...; a number is a constant.
DECREASING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1/sqrt(t)": lambda t: 1 / np.sqrt(t + 1),
    "1/t": lambda t: 1 / (t + 1),
}
RANDOM = "random"


def step_sizes(name: str, steps: int, seed: int) -> np.ndarray:
    """Returns the step sizes of a schedule.

    Args:
      name: a number, a key of `DECREASING`, or "random", log-uniform between 0.001
        and 1 at each step.
      steps: how many.
      seed: of random ones.

    Raises:
      ValueError: if the name is none of these.
    """
    if name == RANDOM:
        return 10 ** np.random.default_rng(seed).uniform(-3, 0, steps)
    if name in DECREASING:
        return DECREASING[name](np.arange(steps))
    try:
        value = float(name)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(
            f"a schedule is a positive number, {', '.join(DECREASING)} or {RANDOM}; "
            f"got {name!r}."
        )
    return np.full(steps, value)


def descend(
    tx: optax.GradientTransformation,
    gradient: Callable[[jax.Array, Any], jax.Array],
    start: jax.Array,
    draws: Any,
    observe: Callable[[Any, Any], Any] = lambda x, state: x,
    loss: Callable[[jax.Array], jax.Array] | None = None,
    project: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Any:
    """Descends, and returns what was observed at x_0, ..., x_T.

    Args:
      tx: the optimizer.
      gradient: of the point and of what was drawn for the step.
      start: x_0.
      draws: what is random in the gradients, arrays with a leading axis of T, drawn
        beforehand: a generator inside the scan takes longer than a toy's step.
      observe: of the point and the optimizer's state, arrays.
      loss: for optimizers that compare points; given to them as `value_fn`.
      project: what keeps the point where it may be.

    Returns:
      What `observe` returns, each array with a leading axis of T + 1.
    """
    tx = optax.with_extra_args_support(tx)

    def step(carry: Any, drawn: Any) -> tuple[Any, Any]:
        x, state = carry
        seen = observe(x, state)
        g = gradient(x, drawn)
        extra = {}
        if loss is not None:
            extra = {"value_fn": loss, "value": loss(x), "grad": g}
        updates, state = tx.update(g, state, x, **extra)
        return (project(optax.apply_updates(x, updates)), state), seen

    last, seen = jax.lax.scan(step, (start, tx.init(start)), draws)
    return jax.tree.map(
        lambda many, one: jnp.concatenate([many, jnp.asarray(one)[None]]),
        seen, observe(*last),
    )


def pick(
    which: Any, optimizers: Sequence[optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer that `which` counts, a traced integer.

    All of them see the gradients of the one's points, and what the others answer is
    left aside. Compiling takes much longer than running a toy, and so many methods
    are compiled as one.
    """
    every = [optax.with_extra_args_support(tx) for tx in optimizers]

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(tx.init(params) for tx in every)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        out = [
            tx.update(updates, own, params, **extra)
            for tx, own in zip(every, state, strict=True)
        ]
        chosen = jax.tree.map(
            lambda *each: jax.lax.select_n(which, *each), *(u for u, _ in out)
        )
        return chosen, tuple(own for _, own in out)

    return optax.GradientTransformationExtraArgs(init, update)


def over_all(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns what `function` gives for all combinations, as NumPy arrays.

    Args:
      function: of one element of each argument.
      *arguments: arrays, or pytrees of them, along whose leading axes it runs.

    Returns:
      What it returns, with one leading axis for each argument, in their order.
    """
    for i in reversed(range(len(arguments))):
        axes = tuple(0 if j == i else None for j in range(len(arguments)))
        function = jax.vmap(function, axes)
    return jax.tree.map(np.asarray, jax.jit(function)(*arguments))

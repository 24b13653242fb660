"""Random keys in optimizer state: one key, one count, fold_in at use."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import check_state, shown


class KeyState(NamedTuple):
    """A key that all workers share, and the number of steps that used it."""

    key: jax.Array
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count


def as_key(name: str, key: Any) -> jax.Array:
    """Returns a JAX key from an int, a raw uint32 key or a typed key."""
    if isinstance(key, bool) or key is None or isinstance(key, str):
        raise TypeError(f"{name} must be an int or a JAX random key; got {key!r}.")
    if isinstance(key, int):
        try:
            return jax.random.key(key)
        except OverflowError as error:
            raise ValueError(
                f"{name} must fit in 64 bits (32 without jax_enable_x64); got {key}."
            ) from error
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if key.ndim == 0:
            return key
    elif dtype is not None and jnp.issubdtype(dtype, jnp.integer) and key.ndim == 0:
        return jax.random.key(key)
    elif dtype == jnp.uint32 and key.shape == _raw_shape():
        # A copy: the state may be donated, the caller's key must survive that.
        return jnp.array(key)
    got = shown(key) if dtype is None else f"shape {key.shape} of dtype {dtype}"
    raise TypeError(
        f"{name} must be an int, one typed key (jax.random.key) or one raw key "
        f"(jax.random.PRNGKey); got {got}."
    )


def check_key_given(what: str, key: Any) -> None:
    """Refuses to draw random numbers without a key."""
    if key is None:
        raise ValueError(
            f"{what} needs a key, the same on all workers; got key=None. Pass an int "
            "or a JAX key."
        )


def _raw_shape() -> tuple[int, ...]:
    """Returns the shape of a raw key of the implementation that JAX uses now."""
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


def init_keys(key: Any) -> KeyState:
    """Returns the state of a transformation that draws random numbers."""
    key = as_key("key", key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        # Donating the state must not invalidate a key the caller still holds.
        key = jax.random.clone(key)
        key = jax.random.wrap_key_data(
            jnp.array(jax.random.key_data(key)), impl=jax.random.key_impl(key)
        )
    return KeyState(key=key, count=jnp.zeros([], jnp.int32))


def next_keys(state: KeyState) -> KeyState:
    """Returns the state of the next step."""
    check_state("what draws random numbers", state, KeyState)
    return KeyState(key=state.key, count=optax.safe_increment(state.count))


def leaf_key(state: KeyState, leaf: int, index: Any = None) -> jax.Array:
    """Returns the key of one leaf at this step, private to worker `index` if given."""
    check_state("what draws random numbers", state, KeyState)
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.count), leaf)
    return key if index is None else jax.random.fold_in(key, index)

"""Random keys in optimizer state: one key, one count, fold_in at use."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class KeyState(NamedTuple):
    """A key that all workers share, and the number of steps that used it."""

    key: jax.Array
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count


def as_key(name: str, key: Any) -> jax.Array:
    """Returns a key of its own memory from an int, a raw key or a typed key.

    State is donated, and the key of the caller must survive that.
    """
    if key is None:
        raise ValueError(
            f"{name} needs a key, the same on all workers; got key=None. Pass an int "
            "or a JAX key."
        )
    if jnp.ndim(key) == 0 and jnp.issubdtype(jnp.result_type(key), jnp.integer):
        return jax.random.key(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jnp.array(key)
    data = jnp.array(jax.random.key_data(jax.random.clone(key)))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def init_keys(name: str, key: Any) -> KeyState:
    """Returns the state of a transformation that draws random numbers."""
    return KeyState(key=as_key(name, key), count=jnp.zeros([], jnp.int32))


def next_keys(state: KeyState) -> KeyState:
    """Returns the state of the next step."""
    return KeyState(key=state.key, count=optax.safe_increment(state.count))


def leaf_key(state: KeyState, leaf: int, index: Any = None) -> jax.Array:
    """Returns the key of one leaf at this step, private to worker `index` if given."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.count), leaf)
    return key if index is None else jax.random.fold_in(key, index)

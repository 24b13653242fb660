"""Parts that the optimizers chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ef_optax._keys import as_key

Parts = list[optax.GradientTransformation]


class WarmUpState(NamedTuple):
    """State of the transformation that warms up, and the step."""

    inner: Any
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count


def warm_up(
    tx: optax.GradientTransformation, steps: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """Updates the state of `tx`, but passes its input on, for the first steps."""
    tx = optax.with_extra_args_support(tx)

    def init_fn(params: Any) -> WarmUpState:
        return WarmUpState(inner=tx.init(params), count=jnp.zeros([], jnp.int32))

    def update_fn(updates: Any, state: WarmUpState, params: Any = None, **extra: Any):
        warm, inner = tx.update(updates, state.inner, params, **extra)
        out = jax.tree.map(
            lambda u, w: jnp.where(state.count < steps, u, w), updates, warm
        )
        return out, WarmUpState(inner, optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def decay_weights(weight_decay: Any, mask: Any) -> Parts:
    """Returns weight decay, or nothing where it is None."""
    return [] if weight_decay is None else [
        optax.add_decayed_weights(weight_decay, mask)
    ]


def update_noise(noise: Any, key: Any) -> Parts:
    """Returns Gaussian noise from a key that all workers share, or nothing."""
    if noise is None:
        return []
    as_key("noise", key)  # refuses a bad key here, not in init

    def add_noise() -> optax.GradientTransformation:
        # Made anew by each init, which may donate it; and another stream than that of
        # random votes and ties.
        own = jax.random.fold_in(as_key("key", key), 1)
        if not jnp.issubdtype(own.dtype, jax.dtypes.prng_key):
            own = jax.random.wrap_key_data(own)  # optax takes no raw keys
        return optax.add_noise(eta=jnp.square(noise), gamma=0.0, key=own)

    return [optax.GradientTransformation(
        lambda params: add_noise().init(params),
        lambda updates, state, params=None: add_noise().update(updates, state, params),
    )]

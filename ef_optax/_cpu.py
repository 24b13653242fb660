"""What is there for XLA's CPU backend alone, measured with JAX 0.10.2.

Figures are of an update of ResNet-50's 161 leaves, 25.6M float32, on 2 cores.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_ROW = 32
_SMALL = 4096


def in_place(function: Callable[..., jax.Array], *trees: Any) -> Any:
    """Maps an elementwise function over trees, with an axis of one in front.

    Arrays that a mesh split worker by worker have such an axis, and this backend writes
    into a donated array only where it need not reshape in between. Without it the
    error, and the messages with it, are copied: temporaries of 7.5 bytes a parameter
    in place of 0.5.
    """
    out = jax.tree.map(lambda *leaves: function(*(x[None] for x in leaves)), *trees)
    return jax.tree.map(lambda x: x.reshape(x.shape[1:]), out)


# Where a step that is not taken has updates of 0, u + e is the error as it was. Written
# so, u + e can take its place and nothing needs both: temporaries of 0.06 bytes a
# parameter in place of 4.1, and an update of ef_sign_sgd in 1.3 times the time of adam
# in place of 2.7. (Memory.residual, `zeroed`.)


def all_within(leaves: list[jax.Array], limits: list[float]) -> jax.Array:
    """Returns whether all magnitudes in some leaves are at most the leaf's limit."""

    def whole(*leaves: jax.Array) -> jax.Array:
        beyond = [jnp.any(~(jnp.abs(x) <= m)) for x, m in zip(leaves, limits,
                                                             strict=True)]
        return ~jnp.any(jnp.stack(beyond))

    if any(axis is not None for x in leaves for axis in jax.typeof(x).sharding.spec):
        return whole(*leaves)  # to flatten an array that a mesh splits would gather it
    return lax.platform_dependent(
        *leaves, default=whole, cpu=lambda *leaves: _within_by_rows(leaves, limits)
    )


def _within_by_rows(leaves: Any, limits: list[float]) -> jax.Array:
    """Does the same by sums over rows of 32.

    This backend reduces rows of this length at the speed of memory, together with
    whatever made the numbers; a sum in one go would first store what made them. With
    small leaves joined and counts compared at the end, sign_sgd compiles in 2 s, where
    `whole` takes 13 s, and ef_sign_sgd in 8 s where it takes 67 s.
    """
    beyond = [
        ~((x.reshape(-1) <= m) & (x.reshape(-1) >= -m))
        for x, m in zip(leaves, limits, strict=True)
    ]
    large = [x for x in beyond if x.size >= _SMALL]
    small = [x for x in beyond if x.size < _SMALL]
    rows = [
        jnp.sum(jnp.pad(x, (0, -x.size % _ROW)).reshape(-1, _ROW), axis=1,
                dtype=jnp.uint8)
        for x in (*large, *([jnp.concatenate(small)] if small else []))
    ]
    return ~jnp.any(jnp.concatenate(rows) > 0)

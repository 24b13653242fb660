"""The arithmetic of an error: what it adds to an update, and what is left of one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ef_optax._checks import concrete
from ef_optax._numerics import cast_like, wide


@dataclasses.dataclass(frozen=True)
class Memory:
    r"""How an error is kept at one step, on a worker and on what serves its shard.

    Attributes:
      decay: :math:`\beta`, how much of the error is kept.
      rate: :math:`\eta_t`, the learning rate that is applied later; None if it was
        applied before. The error is in units of the parameters all the same.
    """

    decay: jax.typing.ArrayLike = 1.0
    rate: jax.typing.ArrayLike | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the error is added as it is, with nothing to scale."""
        return self.rate is None and concrete(self.decay) == 1.0

    def corrected(self, updates: Any, error: Any) -> Any:
        r"""Returns :math:`p = u + \beta e`, or :math:`u + \beta e / \eta`."""

        def add(u: jax.Array, e: jax.Array) -> jax.Array:
            # The larger of the two dtypes, so that neither loses what it holds.
            dtype = jnp.promote_types(wide(u.dtype), e.dtype)
            e = e.astype(dtype)
            if concrete(self.decay) != 1.0:
                e = jnp.asarray(self.decay, dtype) * e
            if self.rate is not None:
                eta = jnp.asarray(self.rate, dtype)
                e = jnp.where(eta == 0, 0, e / jnp.where(eta == 0, 1, eta))
            return u.astype(dtype) + e

        return jax.tree.map(add, updates, error)

    def residual(self, corrected: Any, own: Any, error: Any) -> Any:
        r"""Returns the next error: what of `corrected` is not in `own`."""

        def rest(p: jax.Array, o: jax.Array, e: jax.Array) -> jax.Array:
            left = p - o.astype(p.dtype)
            if self.rate is not None:
                eta = jnp.asarray(self.rate, p.dtype)
                left = jnp.where(eta == 0, e.astype(p.dtype), eta * left)
            return left.astype(e.dtype)

        return jax.tree.map(rest, corrected, own, error)

    def kept(self, corrected: Any, error: Any) -> Any:
        """Returns the error as it was, where `corrected` is of updates that are 0.

        A plain memory has it in `corrected`, 0 + e: then nothing need read or hold
        the old error while the corrected update is made in its place.
        """
        return cast_like(corrected, error) if self.is_plain else error

    def applied(self, updates: Any) -> Any:
        """Returns what is applied: nothing at a learning rate of 0, but for a NaN."""
        if self.rate is None:
            return updates
        off = jnp.asarray(self.rate) == 0
        return jax.tree.map(
            lambda x: jnp.where(off & ~jnp.isnan(x), 0, x), updates
        )

"""What a compressor is: encode, decode, and the two as one optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ef_optax._checks import check_updates
from ef_optax._numerics import all_finite, guard
from ef_optax.workers import Workers

# Above this many workers, messages are decoded in a loop, not one after another.
_UNROLL = 8


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Template:
    """The structure, shapes and dtypes of what was encoded; static, never sent."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, tree: Any) -> Template:
        """Returns the template of a pytree of arrays."""
        leaves, treedef = jax.tree.flatten(tree)
        return cls(
            treedef, tuple(x.shape for x in leaves), tuple(x.dtype for x in leaves)
        )

    def unflatten(self, leaves: list[Any]) -> Any:
        """Returns the leaves as the pytree, in its shapes and dtypes."""
        return self.treedef.unflatten(
            x.reshape(shape).astype(dtype)
            for x, shape, dtype in zip(leaves, self.shapes, self.dtypes, strict=True)
        )


class Compressor(optax.GradientTransformationExtraArgs):
    r"""A map :math:`C` made of encode and decode; build one to send your own messages.

    .. math:: C(x) = \mathrm{decode}(\mathrm{encode}(x))

    It is an optax transformation too: ``update`` applies :math:`C` with one worker, so
    that a compressor stands anywhere in a chain. A non-finite input gives NaN
    everywhere and leaves the state as it was.

    Args:
      name: how the compressor is called in messages, with its parameters.
      encode: ``(updates, state, workers) -> (message, shared, state)``. The message
        is a pytree of arrays in exactly the dtypes and shapes that are sent; `shared`
        is what decoding needs and every worker has anyway (a :class:`Template`,
        indices from a shared key), and is never sent. What comes of an update that is
        not finite is thrown away, but it must come to an end.
      decode: ``(message, shared) -> updates``, in the shapes that were encoded; linear
        in the message if `additive`.
      init: ``params -> state``; the state is the same on all workers. None: no state.
      roundtrip: ``(updates, state) -> (updates, state)``, decode after encode for one
        worker in one go, to the same bits. None: made from the two.
      additive: whether messages may be summed before decoding.
      splittable: whether flat rows of leaves may be encoded alone.
      contraction: ``params -> float``: the :math:`\delta` of
        :math:`\|C(x)-x\|^2 \le (1-\delta)\|x\|^2`, as proven for these shapes.
      variance: ``params -> float``: the :math:`\omega` of
        :math:`E\|C(x)-x\|^2 \le \omega\|x\|^2` of an unbiased compressor.
      contractive: what error feedback uses in its place: for an unbiased compressor
        :math:`C/(1+\omega)`, made from `variance` if None.
      decode_sum: ``(messages, shared) -> updates``: the sum of the decoded messages,
        whose leaves have a leading worker axis. None: one by one.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> from ef_optax import Compressor, Template
      >>> def encode(updates, state, workers):
      ...     rounded = jax.tree.map(lambda x: x.astype(jnp.float16), updates)
      ...     return rounded, Template.of(updates), state
      >>> def decode(message, template):
      ...     return template.unflatten(jax.tree.leaves(message))
      >>> half = Compressor("half", encode=encode, decode=decode,
      ...                   contraction=lambda params: 1 - 2.0**-22)
      >>> x = jnp.array([1.0, 1e-3])
      >>> updates, state = half.update(x, half.init(x))
      >>> print(updates)
      [1.        0.0010004]
    """

    name: str
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    roundtrip: Callable[..., Any]
    additive: bool
    splittable: bool
    decode_sum: Callable[..., Any]

    def __new__(
        cls, name: str, *, encode: Callable[..., Any], decode: Callable[..., Any],
        init: Callable[[Any], Any] | None = None,
        roundtrip: Callable[..., Any] | None = None, additive: bool = False,
        splittable: bool = True, contraction: Callable[[Any], float] | None = None,
        variance: Callable[[Any], float] | None = None,
        contractive: Compressor | None = None,
        decode_sum: Callable[..., Any] | None = None,
    ) -> Self:
        """Builds the transformation around encode and decode."""

        def by_parts(updates: Any, state: Any) -> Any:
            message, shared, state = encode(updates, state, Workers(None))
            return decode(message, shared), state

        together = roundtrip or by_parts

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            updates = check_updates(name, updates, params)
            return guard(together, all_finite(updates), updates, state)

        self = super().__new__(cls, init or (lambda params: optax.EmptyState()), update)
        self.name, self.encode, self.decode = name, encode, decode
        self.roundtrip, self.additive, self.splittable = together, additive, splittable
        self.decode_sum = decode_sum or _decode_one_by_one(decode)
        self._contraction, self._variance = contraction, variance
        self._contractive = contractive
        return self

    def contraction(self, params: Any) -> float | None:
        """Returns the proven contraction for these shapes, None if there is none."""
        return None if self._contraction is None else float(self._contraction(params))

    def variance(self, params: Any) -> float | None:
        """Returns the proven variance for these shapes, None if there is none."""
        return None if self._variance is None else float(self._variance(params))

    @property
    def contracts(self) -> bool:
        """Whether the compressor, or a multiple of it, is known to contract."""
        return self._contraction is not None or self._variance is not None

    @property
    def contractive(self) -> Compressor:
        """What error feedback uses: C itself, or C/(1+ω) if C is unbiased."""
        if self._contractive is not None:
            return self._contractive
        if self._contraction is None and self._variance is not None:
            return _damped(self, self._variance)
        return self

    # A tuple's own ways to copy would lose everything but init and update.
    @classmethod
    def _make(cls, iterable: Any) -> Any:
        raise TypeError("a compressor cannot be changed; build another by its function")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __repr__(self) -> str:
        return self.name


def _decode_one_by_one(decode: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a sum over workers that holds one decoded message at a time."""

    def decode_sum(messages: Any, shared: Any) -> Any:
        leaves = jax.tree.leaves(messages)
        if not leaves:  # an empty tree has an empty message
            return decode(messages, shared)
        size = leaves[0].shape[0]

        def one(i: Any) -> Any:
            return decode(jax.tree.map(lambda m: m[i], messages), shared)

        def add(i: Any, total: Any) -> Any:
            return jax.tree.map(jnp.add, total, one(i))

        total = one(0)
        if size <= _UNROLL:
            for i in range(1, size):
                total = add(i, total)
            return total
        return lax.fori_loop(1, size, add, total)

    return decode_sum


def _damped(compressor: Compressor, variance: Callable[[Any], float]) -> Compressor:
    """Returns C/(1+ω) of an unbiased C, which contracts with δ = 1/(1+ω)."""

    def factor(params: Any) -> float:
        return 1.0 / (1.0 + variance(params))

    def scaled(decode: Callable[..., Any]) -> Callable[..., Any]:
        def decoded(message: Any, shared: Any) -> Any:
            shared, scale = shared
            return jax.tree.map(
                lambda x: x * jnp.asarray(scale.value, x.dtype), decode(message, shared)
            )

        return decoded

    def encode(updates: Any, state: Any, workers: Workers) -> Any:
        message, shared, state = compressor.encode(updates, state, workers)
        return message, (shared, _Scale(factor(updates))), state

    return Compressor(
        f"{compressor.name}/(1+ω)", init=compressor.init, encode=encode,
        decode=scaled(compressor.decode), decode_sum=scaled(compressor.decode_sum),
        additive=compressor.additive, splittable=compressor.splittable,
        contraction=factor,
    )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Scale:
    value: float


def leafwise(
    name: str, encode_leaf: Callable[..., tuple[Any, Any]],
    decode_leaf: Callable[..., jax.Array], *,
    roundtrip_leaf: Callable[[jax.Array], jax.Array] | None = None,
    sum_leaf: Callable[..., jax.Array] | None = None, **kwargs: Any,
) -> Compressor:
    """Returns the stateless compressor that treats each leaf alone.

    ``encode_leaf(x) -> (message, shared)``; ``decode_leaf(message, shared, shape,
    dtype) -> x``, and ``sum_leaf`` for messages with a leading axis, to be summed;
    ``roundtrip_leaf(x) -> x``, the first two in one go for one worker.
    """

    def encode(updates: Any, state: Any, workers: Workers) -> Any:
        pairs = [encode_leaf(x) for x in jax.tree.leaves(updates)]
        message = tuple(m for m, _ in pairs)
        return message, (Template.of(updates), tuple(s for _, s in pairs)), state

    def by_leaf(function: Callable[..., jax.Array]) -> Callable[..., Any]:
        def decode(message: Any, shared: Any) -> Any:
            template, parts = shared
            leaves = zip(message, parts, template.shapes, template.dtypes, strict=True)
            return template.unflatten([function(*leaf) for leaf in leaves])

        return decode

    roundtrip = None if roundtrip_leaf is None else (
        lambda updates, state: (jax.tree.map(roundtrip_leaf, updates), state)
    )
    return Compressor(
        name, encode=encode, decode=by_leaf(decode_leaf),
        decode_sum=None if sum_leaf is None else by_leaf(sum_leaf),
        roundtrip=roundtrip, **kwargs,
    )

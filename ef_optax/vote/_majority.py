"""Majority vote: the sign of the sum of the workers' signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import (
    check_choice,
    check_float_leaves,
    check_interval,
    concrete,
    float_arrays,
)
from ef_optax._keys import KeyState, as_key, init_keys, leaf_key, next_keys
from ef_optax._numerics import all_finite, keep_if, nan_unless
from ef_optax.workers import AxisName, Workers


class Vote(optax.GradientTransformationExtraArgs):
    """A transformation in which workers vote; error feedback cannot hold one."""


def majority_vote(
    axis_name: AxisName,
    *,
    zero: Literal["abstain", "positive", "random"] = "abstain",
    tie: Literal["zero", "positive", "random"] = "zero",
    threshold: jax.typing.ArrayLike = 0.0,
    quorum: jax.typing.ArrayLike = 0,
    key: Any = None,
    allow_unvarying: bool = False,
) -> Vote:
    r"""The sign that most workers' gradients have.

    .. math::
      u \leftarrow \operatorname{sign}\Big(\sum_{i=1}^M \operatorname{sign}(g_i)\Big)

    Votes cross as int8 by one :func:`jax.lax.psum` for the whole tree, as int32 from
    128 workers on. The update is unscaled: follow it with a learning rate. With one
    worker it is the sign.

    Args:
      axis_name: the mesh axis of the workers, or a tuple of them; None for one worker.
      zero: what a worker votes where its gradient is 0: "abstain" (0), "positive", or
        "random", a fair sign of its own.
      tie: what an even split gives: "zero", "positive", or "random", a fair sign, the
        same on all workers. A sum of 0 because all abstained is an even split too.
      threshold: an absolute value: a worker abstains where its :math:`|g|` is below.
      quorum: the least :math:`|\sum_i \text{vote}_i|`, in workers, that moves a
        coordinate; below it the result is 0 whatever `tie` says.
      key: an int or a JAX key, the same on all workers, for what is random.
      allow_unvarying: whether some gradients (not all) may be the same on all workers.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`. If any worker's gradient is not
      finite, every worker's update is NaN and the state stays as it was.

    Raises:
      ValueError: if `zero` or `tie` is unknown, if one is random and there is no key,
        if threshold or quorum is negative; at trace time, if quorum exceeds the number
        of workers, or if gradients are already summed over the axis.
      NameError: at trace time, if the axis is not bound.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> vote = ef_optax.majority_vote("workers")
      >>> def step(g):
      ...     return vote.update(g, vote.init(g))[0]
      >>> grads = jnp.array([[0.1, -9.0], [0.2, 1.0], [-5.0, 0.0]])  # of 3 workers
      >>> print(jax.vmap(step, axis_name="workers")(grads)[0])
      [1. 0.]

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, Algorithm 3; abstention and quorum
      from Section 6

      Safaryan and Richtárik, `On Stochastic Sign Descent Methods
      <https://arxiv.org/abs/1905.12938>`_, 2019, Algorithm 2; Lemma 8 on ties
    """
    check_choice("zero", zero, ("abstain", "positive", "random"))
    check_choice("tie", tie, ("zero", "positive", "random"))
    check_interval("threshold", threshold, 0.0)
    check_interval("quorum", quorum, 0.0)
    random = [n for n, v in (("zero", zero), ("tie", tie)) if v == "random"]
    if random and key is None:
        raise ValueError(
            " and ".join(f"{name}='random'" for name in random)
            + " needs a key, the same on all workers."
        )
    if key is not None:
        as_key("key", key)

    def votes_of(g: jax.Array, leaf: int, state: Any, workers: Workers) -> jax.Array:
        vote = jnp.sign(g)
        if zero == "positive":
            vote = jnp.where(g == 0, 1, vote)
        elif zero == "random":
            own = jax.random.fold_in(leaf_key(state, leaf, workers.index), 0)
            vote = jnp.where(g == 0, _fair(own, g.shape), vote)
        return jnp.where(jnp.abs(g) < threshold, 0, vote)

    def outcome(total: jax.Array, leaf: int, state: Any, workers: Workers) -> jax.Array:
        needed = concrete(quorum)
        if needed is not None and needed > workers.size:
            raise ValueError(
                f"quorum={needed:g} is more than the {workers.size} workers on axis "
                f"{workers.axis_name!r}: no coordinate would ever move."
            )
        result = jnp.sign(total)
        if tie == "positive":
            result = jnp.where(total == 0, 1, result)
        elif tie == "random":
            # Another stream than the workers' own, which fold in their index first.
            common = jax.random.fold_in(leaf_key(state, leaf), 0x7FFFFFFF)
            result = jnp.where(total == 0, _fair(common, total.shape), result)
        return jnp.where(jnp.abs(total) < quorum, 0, result)

    return _vote(
        "majority_vote", axis_name, votes_of, outcome,
        key if random else None, allow_unvarying,
    )


def vote_sum(axis_name: AxisName, *, allow_unvarying: bool = False) -> Vote:
    r"""The sum of the workers' signs, not its sign.

    .. math::
      u \leftarrow \sum_{i=1}^M \operatorname{sign}(g_i)

    The "good" scheme of Section 4 of Bernstein et al.: it needs more bits on the way
    back than a vote. Workers abstain where their gradient is 0. The sum is not
    averaged.

    Args:
      axis_name: the mesh axis of the workers, or a tuple of them; None for one worker.
      allow_unvarying: whether some gradients (not all) may be the same on all workers.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`. If any worker's gradient is not
      finite, every worker's update is NaN.

    Raises:
      ValueError: at trace time, if gradients are already summed over the axis.
      NameError: at trace time, if the axis is not bound.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> vote = ef_optax.vote_sum("workers")
      >>> def step(g):
      ...     return vote.update(g, vote.init(g))[0]
      >>> grads = jnp.array([[0.1, -9.0], [0.2, 1.0], [5.0, 0.0]])  # of 3 workers
      >>> print(jax.vmap(step, axis_name="workers")(grads)[0])
      [3. 0.]

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, Section 4
    """
    return _vote(
        "vote_sum", axis_name,
        lambda g, leaf, state, workers: jnp.sign(g),
        lambda total, leaf, state, workers: total,
        None, allow_unvarying,
    )


def _fair(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return 2 * jax.random.bernoulli(key, shape=shape).astype(jnp.int8) - 1


def _vote(
    name: str,
    axis_name: AxisName,
    votes_of: Callable[..., jax.Array],
    outcome: Callable[..., jax.Array],
    key: Any,
    allow_unvarying: bool,
) -> Vote:
    workers = Workers(axis_name)

    def init_fn(params: Any) -> Any:
        check_float_leaves(name, params)
        return optax.EmptyState() if key is None else init_keys(key)

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any):
        del params, extra
        workers.check_bound()
        updates = float_arrays(name, updates)
        workers.refuse_summed(name, updates, allow_unvarying)
        leaves: list[jax.Array]
        treedef: Any
        leaves, treedef = jax.tree.flatten(updates)
        # A sum of M votes fits in int8 up to 127. NVIDIA's collectives reduce no
        # 16-bit integers, so int32 is next.
        wire = jnp.int8 if workers.size <= 127 else jnp.int32
        ballots = [
            votes_of(g, i, state, workers).astype(wire) for i, g in enumerate(leaves)
        ]
        # A sign cannot carry a NaN, so the flag does, in the same buffer.
        flag = jnp.where(all_finite(updates), 0, 1).astype(wire)
        totals, flags = workers.sum((ballots, flag))
        finite = flags == 0
        out = treedef.unflatten(
            outcome(t, i, state, workers).astype(g.dtype)
            for i, (t, g) in enumerate(zip(totals, leaves, strict=True))
        )
        following = next_keys(state) if isinstance(state, KeyState) else state
        return nan_unless(finite, out), keep_if(finite, following, state)

    return Vote(init_fn, update_fn)

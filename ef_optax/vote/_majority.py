"""Majority vote: the sign of the sum of the workers' signs."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from ef_optax._checks import check_choice
from ef_optax._keys import KeyState, as_key, init_keys, leaf_key, next_keys
from ef_optax._numerics import concrete, flag_of, keep_if, nan_unless
from ef_optax.vote._packed import Rule, packed_vote
from ef_optax.workers import AxisName, Workers


def majority_vote(
    axis_name: AxisName, *, wire: Literal["psum", "packed"] = "psum",
    zero: Literal["abstain", "positive", "random"] = "abstain",
    tie: Literal["zero", "positive", "random"] = "zero",
    threshold: jax.typing.ArrayLike = 0.0, quorum: jax.typing.ArrayLike = 0,
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The sign that most workers' gradients have.

    .. math::
      u \leftarrow \operatorname{sign}\Big(\sum_{i=1}^M \operatorname{sign}(g_i)\Big)

    With ``wire="psum"`` votes cross as int8 by one :func:`jax.lax.psum` for the whole
    tree, as int32 from 128 workers on. With ``wire="packed"`` they cross as bits, to
    the worker that counts a shard of them and back, by one :func:`jax.lax.all_to_all`
    and one :func:`jax.lax.all_gather`: one bit a coordinate there if nobody may
    abstain (`zero` is not "abstain" and there is no `threshold`), and one bit back if
    no result may be 0 (`tie` is not "zero", or no tie is possible, and there is no
    `quorum`); otherwise two. The result is the same to the bit.

    The update is unscaled: follow it with a learning rate.

    Args:
      axis_name: the mesh axis of the workers, or a tuple of them; None for one worker.
      wire: how votes cross: "psum" or "packed".
      zero: what a worker votes where its gradient is 0: "abstain" (0), "positive", or
        "random", a fair sign of its own.
      tie: what an even split gives, also of no votes: "zero", "positive", or "random",
        a fair sign, the same on all workers.
      threshold: an absolute value: a worker abstains where its :math:`|g|` is below.
      quorum: the least :math:`|\sum_i \text{vote}_i|`, in workers, that moves a
        coordinate; below it the result is 0 whatever `tie` says.
      key: an int or a JAX key, the same on all workers, for what is random.

    Returns:
      A transformation. If any worker's gradient is not finite, every worker's update is
      NaN and the state stays as it was.

    Raises:
      ValueError: for an unknown `wire`, `zero` or `tie`, or one that is random without
        a key; at trace time, for a quorum beyond the number of workers, gradients of
        other shapes than the parameters, or already summed over the axis.
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
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, Algorithm 3;
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Lemma 8
    """
    check_choice("wire", wire, ("psum", "packed"))
    check_choice("zero", zero, ("abstain", "positive", "random"))
    check_choice("tie", tie, ("zero", "positive", "random"))
    random = [f"{n}='random'" for n, v in (("zero", zero), ("tie", tie))
              if v == "random"]
    if random:
        as_key(" and ".join(random), key)  # refuses a bad key here, not in init

    def votes_of(g: jax.Array, leaf: int, state: Any, workers: Workers) -> jax.Array:
        vote = jnp.sign(g)
        if zero == "positive":
            vote = jnp.where(g == 0, 1, vote)
        elif zero == "random":
            own = jax.random.fold_in(leaf_key(state, leaf, workers.index), 0)
            fairly = _signed(jax.random.bernoulli(own, shape=g.shape))
            vote = jnp.where(g == 0, fairly, vote)
        if concrete(threshold) == 0:
            return vote
        return jnp.where(jnp.abs(g) < threshold, 0, vote)

    def fair(leaf: int, shape: tuple[int, ...], state: Any) -> jax.Array:
        # Another stream than the workers' own, which fold in their index first.
        shared = jax.random.fold_in(leaf_key(state, leaf), 0x7FFFFFFF)
        return jax.random.bernoulli(shared, shape=shape)

    def outcome(total: jax.Array, leaf: int, state: Any) -> jax.Array:
        result = jnp.sign(total)
        if tie == "positive":
            result = jnp.where(total == 0, 1, result)
        elif tie == "random":
            fairly = _signed(fair(leaf, total.shape, state))
            result = jnp.where(total == 0, fairly, result)
        if concrete(quorum) == 0:
            return result
        return jnp.where(jnp.abs(total) < quorum, 0, result)

    def cross(votes: Any, leaves: Any, state: Any, workers: Workers) -> Any:
        needed = concrete(quorum)
        if needed is not None and needed > workers.size:
            raise ValueError(
                f"quorum={needed:g} is more than the {workers.size} workers on axis "
                f"{workers.axis_name!r}. Take at most {workers.size}."
            )
        if wire == "packed":
            rule = Rule(
                may_abstain=zero == "abstain" or concrete(threshold) != 0,
                tie=tie, quorum=quorum,
                fair=lambda leaf: fair(leaf, votes[leaf].shape, state),
            )
            return packed_vote(votes, leaves, rule, workers)
        totals, finite = _summed_votes(votes, leaves, workers)
        return [outcome(t, i, state) for i, t in enumerate(totals)], finite

    return _vote("majority_vote", axis_name, votes_of, cross, key if random else None)


def vote_sum(axis_name: AxisName) -> optax.GradientTransformationExtraArgs:
    r"""The sum of the workers' signs, not its sign.

    .. math:: u \leftarrow \sum_{i=1}^M \operatorname{sign}(g_i)

    The "good" scheme of Section 4 of Bernstein et al.: it needs more bits on the way
    back than a vote. Workers abstain where their gradient is 0. What `axis_name` is,
    what a gradient that is not finite gives and what is refused at trace time: as for
    :func:`ef_optax.majority_vote`.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Examples:
      >>> import jax, jax.numpy as jnp, ef_optax
      >>> vote = ef_optax.vote_sum("workers")
      >>> def step(g):
      ...     return vote.update(g, vote.init(g))[0]
      >>> grads = jnp.array([[0.1, -9.0], [0.2, 1.0], [5.0, 0.0]])  # of 3 workers
      >>> print(jax.vmap(step, axis_name="workers")(grads)[0])
      [3. 0.]

    References:
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, Section 4
    """
    return _vote(
        "vote_sum", axis_name,
        lambda g, leaf, state, workers: jnp.sign(g),
        lambda votes, leaves, state, workers: _summed_votes(votes, leaves, workers),
        None,
    )


def _summed_votes(
    votes: list[jax.Array], leaves: list[jax.Array], workers: Workers
) -> tuple[list[jax.Array], jax.Array]:
    """Returns the sums of all votes, and whether all workers were finite."""
    # A sum of M votes fits in int8 up to 127. NVIDIA's collectives reduce no 16-bit
    # integers, so int32 is next.
    wire = jnp.int8 if workers.size <= 127 else jnp.int32
    finite = workers.all_finite(leaves)
    # A sign cannot carry a NaN, so the flag does, in the same buffer.
    votes = [v.astype(wire) for v in votes]
    totals, flags = workers.sum((votes, flag_of(finite, wire)))
    return totals, flags == 0


def _signed(bits: jax.Array) -> jax.Array:
    return 2 * bits.astype(jnp.int8) - 1


def _vote(
    name: str, axis_name: AxisName, votes_of: Callable[..., jax.Array],
    cross: Callable[..., tuple[list[jax.Array], jax.Array]], key: Any,
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation of votes that cross to a result.

    The functions are ``votes_of(gradient, leaf, state, workers) -> votes`` in -1, 0, 1
    and ``cross(votes, gradients, state, workers) -> (results, finite of all)``.
    """
    workers = Workers(axis_name)

    def init_fn(params: Any) -> Any:
        return optax.EmptyState() if key is None else init_keys("key", key)

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any):
        updates = workers.own_updates(name, updates, params)
        leaves, treedef = jax.tree.flatten(updates)
        votes = [votes_of(g, i, state, workers) for i, g in enumerate(leaves)]
        results, finite = cross(votes, leaves, state, workers)
        out = [r.astype(g.dtype) for r, g in zip(results, leaves, strict=True)]
        out = jax.tree.unflatten(treedef, out)
        following = next_keys(state) if isinstance(state, KeyState) else state
        return nan_unless(finite, out), keep_if(finite, following, state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

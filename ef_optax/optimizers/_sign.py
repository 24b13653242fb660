"""The sign methods: signSGD, Signum and their distributed forms."""

from __future__ import annotations

from typing import Any, Literal

import jax
import optax

from ef_optax._checks import check_choice
from ef_optax.compressors import scaled_sign, stochastic_sign
from ef_optax.exchange import Exchange
from ef_optax.feedback import compress
from ef_optax.optimizers._parts import decay_weights, update_noise, warm_up
from ef_optax.vote import majority_vote
from ef_optax.workers import AxisName
from ef_optax.wrappers import local


def sign_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    axis_name: AxisName = None,
    wire: Literal["psum", "packed"] = "psum",
    zero: Literal["abstain", "positive", "random"] = "abstain",
    tie: Literal["zero", "positive", "random"] = "zero",
    threshold: jax.typing.ArrayLike = 0.0,
    quorum: jax.typing.ArrayLike = 0,
    noise: jax.typing.ArrayLike | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Any = None,
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""signSGD, by majority vote of the workers where there are several.

    .. math::
      u \leftarrow -\gamma\, \operatorname{sign}\Big(
        \sum_{i=1}^M \operatorname{sign}(g_i)\Big)

    With one worker and the defaults it agrees with :func:`optax.sign_sgd`. What it
    adds: the vote over `axis_name`, what zeros, ties and unsure workers do, noise,
    decoupled weight decay, and NaN everywhere for a gradient that is not finite.

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      axis_name: the mesh axis of the workers; None for one worker.
      wire: how votes cross, see :func:`ef_optax.majority_vote`.
      zero: what a worker votes where its gradient is 0, see
        :func:`ef_optax.majority_vote`.
      tie: what an even split gives.
      threshold: a worker abstains where its gradient is smaller.
      quorum: the least sum of votes that moves a coordinate.
      noise: standard deviation of Gaussian noise that is added to the vote, the same
        on all workers; None for none.
      weight_decay: decoupled, :math:`u \leftarrow -\gamma(\text{vote} + \lambda x)`,
        as in the majority vote experiments; None for none. For coupled weight decay,
        which the vote sees, chain ``optax.add_decayed_weights`` before.
      mask: which leaves decay, as for :func:`optax.add_decayed_weights`.
      key: an int or a JAX key, the same on all workers, for what is random.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: for the reasons of :func:`ef_optax.majority_vote`, or if there is
        noise and no key.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.sign_sgd(learning_rate=0.5)
      >>> x = jnp.array([3.0, -0.1])
      >>> print(tx.update(x, tx.init(x))[0])
      [-0.5  0.5]

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, Algorithms 1 and 3, Section 6

      Safaryan and Richtárik, `On Stochastic Sign Descent Methods
      <https://arxiv.org/abs/1905.12938>`_, 2019, Algorithms 1 and 2
    """
    return optax.chain(
        majority_vote(
            axis_name, wire=wire, zero=zero, tie=tie, threshold=threshold,
            quorum=quorum, key=key,
        ),
        *update_noise(noise, key),
        *decay_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def signum(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.9,
    accumulator_dtype: Any | None = None,
    *,
    axis_name: AxisName = None,
    momentum: Literal["ema", "heavy_ball"] = "ema",
    warmup_steps: jax.typing.ArrayLike | None = None,
    wire: Literal["psum", "packed"] = "psum",
    zero: Literal["abstain", "positive", "random"] = "abstain",
    tie: Literal["zero", "positive", "random"] = "zero",
    threshold: jax.typing.ArrayLike = 0.0,
    quorum: jax.typing.ArrayLike = 0,
    noise: jax.typing.ArrayLike | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Any = None,
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Signum: the sign of momentum, by majority vote where there are several workers.

    .. math::
      m_i &\leftarrow \beta\, m_i + (1 - \beta)\, g_i \\
      u &\leftarrow -\gamma\, \operatorname{sign}\Big(
        \sum_{i=1}^M \operatorname{sign}(m_i)\Big)

    With one worker and the defaults it agrees with :func:`optax.signum`. What it adds:
    the vote over `axis_name` of momenta that each worker keeps of its own gradients,
    the warm-up of Theorem 3, heavy-ball momentum, noise, decoupled weight decay, and
    NaN everywhere for a gradient that is not finite.

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      beta: :math:`\beta` in [0, 1].
      accumulator_dtype: dtype of the momentum; None means that of the parameters.
      axis_name: the mesh axis of the workers; None for one worker.
      momentum: "ema" as above, or "heavy_ball", :math:`m \leftarrow \beta m + g`,
        which has the same signs, up to rounding, and another scale for `threshold`.
      warmup_steps: for so many steps the vote is on gradients while momentum
        accumulates; see :func:`ef_optax.signum_warmup_steps`. None for none.
      wire: how votes cross, see :func:`ef_optax.majority_vote`.
      zero: what a worker votes where its momentum is 0, see
        :func:`ef_optax.majority_vote`.
      tie: what an even split gives.
      threshold: a worker abstains where its momentum is smaller.
      quorum: the least sum of votes that moves a coordinate.
      noise: standard deviation of Gaussian noise that is added to the vote, the same
        on all workers; None for none.
      weight_decay: decoupled, :math:`u \leftarrow -\gamma(\text{vote} + \lambda x)`,
        as in the majority vote experiments; None for none. For coupled weight decay,
        which momentum sees, chain ``optax.add_decayed_weights`` before.
      mask: which leaves decay, as for :func:`optax.add_decayed_weights`.
      key: an int or a JAX key, the same on all workers, for what is random.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: for the reasons of :func:`ef_optax.majority_vote`, if
        `momentum` is unknown, or if there is noise and no key.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.signum(learning_rate=0.5, beta=0.9)
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> for g in (jnp.array([3.0, -1.0]), jnp.array([-1.0, -1.0])):
      ...     updates, state = tx.update(g, state)
      >>> print(updates)
      [-0.5  0.5]

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, Algorithm 2, Theorem 3, Section 6
    """
    check_choice("momentum", momentum, ("ema", "heavy_ball"))
    if momentum == "ema":
        # Without debiasing: a positive factor does not change a sign.
        average = optax.ema(beta, debias=False, accumulator_dtype=accumulator_dtype)
    else:
        average = optax.trace(beta, accumulator_dtype=accumulator_dtype)
    if warmup_steps is not None:
        average = warm_up(average, warmup_steps)
    return optax.chain(
        local(average, axis_name),
        sign_sgd(
            learning_rate, axis_name=axis_name, wire=wire, zero=zero, tie=tie,
            threshold=threshold, quorum=quorum, noise=noise,
            weight_decay=weight_decay, mask=mask, key=key,
        ),
    )


def signum_warmup_steps(beta: float) -> int:
    r"""Returns how many steps momentum needs before Signum may trust it.

    The least :math:`C \ge 1` with

    .. math::
      \frac{C}{2} \beta^C \le \frac{1}{(1-\beta^2)(C+1)}
      \quad\text{and}\quad \beta^{C+1} \le \frac12.

    Args:
      beta: in [0, 1).

    Returns:
      The number of steps.

    Raises:
      ValueError: if `beta` is outside [0, 1).

    Examples:
      >>> import ef_optax
      >>> ef_optax.signum_warmup_steps(0.9)
      54

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, Theorem 3
    """
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"beta must be in [0, 1); got {beta!r}.")
    steps = 1
    while (
        steps / 2 * beta**steps > 1 / ((1 - beta**2) * (steps + 1))
        or beta ** (steps + 1) > 0.5
    ):
        steps += 1
    return steps


def scaled_sign_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    axis_name: AxisName = None,
    exchange: Exchange | None = None,
    per: Literal["leaf", "tree"] | int = "leaf",
    zero: Literal["zero", "positive", "random"] | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Any = None,
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with scaled signs, averaged over the workers, without error feedback.

    .. math::
      u \leftarrow -\gamma\, \frac1M \sum_{i=1}^M
        \frac{\|g_i\|_1}{d} \operatorname{sign}(g_i)

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      axis_name: the mesh axis of the workers; None for one worker.
      exchange: how messages cross, see :func:`ef_optax.compress`.
      per: what shares a scale, see :func:`ef_optax.scaled_sign`.
      zero: what the sign of 0 is, see :func:`ef_optax.scaled_sign`.
      weight_decay: coupled: added to the gradient before the sign, as in the paper's
        experiments; None for none.
      mask: which leaves decay, as for :func:`optax.add_decayed_weights`.
      key: an int or a JAX key for ``zero="random"``, the same on all workers.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: for the reasons of :func:`ef_optax.scaled_sign`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.scaled_sign_sgd(learning_rate=0.5)
      >>> x = jnp.array([3.0, -1.0])
      >>> print(tx.update(x, tx.init(x))[0])
      [-1.  1.]

    References:
      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient Compression
      Schemes <https://arxiv.org/abs/1901.09847>`_, 2019, Section 6
    """
    return optax.chain(
        *decay_weights(weight_decay, mask),
        compress(
            scaled_sign(per, zero, key=key), axis_name=axis_name, exchange=exchange
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def stochastic_sign_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    key: Any,
    axis_name: AxisName = None,
    exchange: Exchange | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with unbiased random signs, averaged over the workers.

    .. math::
      u \leftarrow -\gamma\, \frac1M \sum_{i=1}^M \|g_i\|_2\,
        \widetilde{\operatorname{sign}}(g_i)

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      key: an int or a JAX key, the same on all workers.
      axis_name: the mesh axis of the workers; None for one worker.
      exchange: how messages cross, see :func:`ef_optax.compress`.
      weight_decay: coupled: added to the gradient before the sign; None for none.
      mask: which leaves decay, as for :func:`optax.add_decayed_weights`.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Raises:
      TypeError: if `key` is neither an int nor a key.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.stochastic_sign_sgd(learning_rate=0.5, key=0)
      >>> x = jnp.array([3.0, -4.0])
      >>> print(jnp.abs(tx.update(x, tx.init(x))[0]))
      [2.5 2.5]

    References:
      Safaryan and Richtárik, `On Stochastic Sign Descent Methods
      <https://arxiv.org/abs/1905.12938>`_, 2019, Appendix E
    """
    return optax.chain(
        *decay_weights(weight_decay, mask),
        compress(stochastic_sign(key), axis_name=axis_name, exchange=exchange),
        optax.scale_by_learning_rate(learning_rate),
    )

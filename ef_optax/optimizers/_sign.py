"""The sign methods: signSGD, Signum and their distributed forms."""

from typing import Any, Literal

import optax
from jax.typing import ArrayLike

from ef_optax._checks import check_choice
from ef_optax.compressors import scaled_sign, stochastic_sign
from ef_optax.exchange import Exchange
from ef_optax.feedback import compress
from ef_optax.optimizers._parts import decay_weights, update_noise, warm_up
from ef_optax.vote import majority_vote
from ef_optax.workers import AxisName
from ef_optax.wrappers import local


def sign_sgd(
    learning_rate: optax.ScalarOrSchedule, *, axis_name: AxisName = None,
    wire: Literal["psum", "packed"] = "psum",
    zero: Literal["abstain", "positive", "random"] = "abstain",
    tie: Literal["zero", "positive", "random"] = "zero", threshold: ArrayLike = 0.0,
    quorum: ArrayLike = 0, noise: ArrayLike | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None, mask: Any = None,
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
      axis_name, wire, zero, tie, threshold, quorum: of the vote, as for
        :func:`ef_optax.majority_vote`.
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
      ValueError: as for :func:`ef_optax.majority_vote`, or noise without a key.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.sign_sgd(learning_rate=0.5)
      >>> x = jnp.array([3.0, -0.1])
      >>> print(tx.update(x, tx.init(x))[0])
      [-0.5  0.5]

    References:
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, Algorithms 1, 3;
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Algorithm 2
    """
    return optax.chain(
        majority_vote(
            axis_name, wire=wire, zero=zero, tie=tie, threshold=threshold,
            quorum=quorum, key=key,
        ),
        *update_noise(noise, key), *decay_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def signum(
    learning_rate: optax.ScalarOrSchedule, beta: ArrayLike = 0.9,
    accumulator_dtype: Any | None = None, *, axis_name: AxisName = None,
    momentum: Literal["ema", "heavy_ball"] = "ema",
    warmup_steps: ArrayLike | None = None, wire: Literal["psum", "packed"] = "psum",
    zero: Literal["abstain", "positive", "random"] = "abstain",
    tie: Literal["zero", "positive", "random"] = "zero", threshold: ArrayLike = 0.0,
    quorum: ArrayLike = 0, noise: ArrayLike | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None, mask: Any = None,
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Signum: the sign of momentum, by majority vote where there are several workers.

    .. math::
      m_i &\leftarrow \beta\, m_i + (1 - \beta)\, g_i \\
      u &\leftarrow -\gamma\, \operatorname{sign}\Big(
        \sum_{i=1}^M \operatorname{sign}(m_i)\Big)

    With one worker and the defaults it agrees with :func:`optax.signum`. What it adds
    to that and to :func:`ef_optax.sign_sgd`: each worker keeps the momentum of its own
    gradients, which then vote; the warm-up of Theorem 3; heavy-ball momentum.

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      beta: :math:`\beta` in [0, 1].
      accumulator_dtype: dtype of the momentum; None means that of the parameters.
      momentum: "ema" as above, or "heavy_ball", :math:`m \leftarrow \beta m + g`,
        which has the same signs, up to rounding, and another scale for `threshold`.
      warmup_steps: for so many steps the vote is on gradients while momentum
        accumulates; see :func:`ef_optax.signum_warmup_steps`. None for none.
      axis_name, wire, zero, tie, threshold, quorum, noise, weight_decay, mask, key: as
        for :func:`ef_optax.sign_sgd`, with momentum in place of the gradient.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.signum(learning_rate=0.5, beta=0.9)
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in (jnp.array([3.0, -1.0]), jnp.array([-1.0, -1.0])):
      ...     updates, state = tx.update(g, state)
      >>> print(updates)
      [-0.5  0.5]

    References:
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, Algorithm 2
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
      `Bernstein et al., 2018 <https://arxiv.org/abs/1802.04434>`_, Theorem 3
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
    learning_rate: optax.ScalarOrSchedule, *, axis_name: AxisName = None,
    exchange: Exchange | None = None, per: Literal["leaf", "tree"] | int = "leaf",
    zero: Literal["zero", "positive", "random"] | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None, mask: Any = None,
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with scaled signs, averaged over the workers, without error feedback.

    .. math::
      u \leftarrow -\gamma\, \frac1M \sum_{i=1}^M
        \frac{\|g_i\|_1}{d} \operatorname{sign}(g_i)

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      axis_name, exchange: as for :func:`ef_optax.compress`.
      per, zero, key: of the sign, as for :func:`ef_optax.scaled_sign`.
      weight_decay: coupled: added to the gradient before the sign, as in the paper's
        experiments; None for none.
      mask: which leaves decay, as for :func:`optax.add_decayed_weights`.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.scaled_sign_sgd(learning_rate=0.5)
      >>> x = jnp.array([3.0, -1.0])
      >>> print(tx.update(x, tx.init(x))[0])
      [-1.  1.]

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Section 6
    """
    sign = scaled_sign(per, zero, key=key)
    return optax.chain(
        *decay_weights(weight_decay, mask),
        compress(sign, axis_name=axis_name, exchange=exchange),
        optax.scale_by_learning_rate(learning_rate),
    )


def stochastic_sign_sgd(
    learning_rate: optax.ScalarOrSchedule, *, key: Any, axis_name: AxisName = None,
    exchange: Exchange | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None, mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with unbiased random signs, averaged over the workers.

    .. math::
      u \leftarrow -\gamma\, \frac1M \sum_{i=1}^M \|g_i\|_2\,
        \widetilde{\operatorname{sign}}(g_i)

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      key: an int or a JAX key, the same on all workers.
      axis_name, exchange, weight_decay, mask: as for :func:`ef_optax.scaled_sign_sgd`.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.stochastic_sign_sgd(learning_rate=0.5, key=0)
      >>> x = jnp.array([3.0, -4.0])
      >>> print(jnp.abs(tx.update(x, tx.init(x))[0]))
      [2.5 2.5]

    References:
      `Safaryan and Richtárik, 2021 <https://arxiv.org/abs/1905.12938>`_, Appendix E
    """
    return optax.chain(
        *decay_weights(weight_decay, mask),
        compress(stochastic_sign(key), axis_name=axis_name, exchange=exchange),
        optax.scale_by_learning_rate(learning_rate),
    )

"""SGD with error feedback: Algorithms 1 and 2 of Karimireddy et al."""

from typing import Any, Literal

import optax
from jax.typing import ArrayLike

from ef_optax.compressors import Compressor, scaled_sign
from ef_optax.exchange import Exchange
from ef_optax.feedback import Exempt, error_feedback
from ef_optax.optimizers._parts import decay_weights
from ef_optax.workers import AxisName
from ef_optax.wrappers import local


def ef_sgd(
    learning_rate: optax.ScalarOrSchedule,
    compressor: Compressor | Exempt | optax.GradientTransformation, *,
    axis_name: AxisName = None, exchange: Exchange | None = None,
    decay: ArrayLike = 1.0, accumulator_dtype: Any | None = None,
    momentum: ArrayLike | None = None, nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule | None = None, mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with error feedback; use it with any compressor.

    .. math::
      p_i &\leftarrow -\gamma\, g_i + e_i \\
      e_i &\leftarrow p_i - C(p_i) \\
      u &\leftarrow \frac1M \sum_{i=1}^M C(p_i)

    The error is in units of the parameters: it comes after the learning rate.

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      compressor, axis_name, exchange, decay: as for :func:`ef_optax.error_feedback`.
      accumulator_dtype: dtype of the error and of the momentum; None means that of the
        parameters, and float32 for the error of 16-bit ones.
      momentum: heavy-ball momentum of each worker's own gradients, before the learning
        rate; None for none, as in the paper's EF-signSGD.
      nesterov: whether momentum is Nesterov's.
      weight_decay: coupled: added to the gradient before momentum and compression, as
        in the paper's experiments; None for none. For decoupled weight decay, which
        nothing compresses, chain ``optax.add_decayed_weights(-learning_rate *
        weight_decay)`` after this optimizer.
      mask: which leaves decay, as for :func:`optax.add_decayed_weights`.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.ef_sgd(0.5, ef_optax.top_k(k=1))
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.array([4.0, 3.0]), state)
      ...     print(updates)
      [-2.  0.]
      [ 0. -3.]

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Algorithm 2
    """
    average = [] if momentum is None else [
        local(optax.trace(momentum, nesterov, accumulator_dtype), axis_name)
    ]
    return optax.chain(
        *decay_weights(weight_decay, mask), *average,
        optax.scale_by_learning_rate(learning_rate),
        error_feedback(
            compressor, axis_name=axis_name, exchange=exchange, decay=decay,
            accumulator_dtype=accumulator_dtype,
        ),
    )


def ef_sign_sgd(
    learning_rate: optax.ScalarOrSchedule, *, axis_name: AxisName = None,
    exchange: Exchange | None = None, per: Literal["leaf", "tree"] | int = "leaf",
    zero: Literal["zero", "positive", "random"] | None = None, decay: ArrayLike = 1.0,
    accumulator_dtype: Any | None = None, momentum: ArrayLike | None = None,
    nesterov: bool = False, weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Any = None, key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""EF-signSGD, scaled signs with error feedback; to send one bit a coordinate.

    .. math::
      p_i &\leftarrow -\gamma\, g_i + e_i \\
      e_i &\leftarrow p_i - \frac{\|p_i\|_1}{d} \operatorname{sign}(p_i) \\
      u &\leftarrow \frac1M \sum_{i=1}^M
        \frac{\|p_i\|_1}{d} \operatorname{sign}(p_i)

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      per, zero, key: of the sign, as for :func:`ef_optax.scaled_sign`.
      axis_name, exchange, decay, accumulator_dtype, momentum, nesterov, weight_decay,
        mask: as for :func:`ef_optax.ef_sgd`.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs`.

    Examples:
      >>> import jax.numpy as jnp, ef_optax
      >>> tx = ef_optax.ef_sign_sgd(learning_rate=0.5)
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.array([4.0, 2.0]), state)
      ...     print(updates)
      [-1.5 -1.5]
      [-1.5 -1.5]

    References:
      `Karimireddy et al., 2019 <https://arxiv.org/abs/1901.09847>`_, Algorithm 1
    """
    return ef_sgd(
        learning_rate, scaled_sign(per, zero, key=key), axis_name=axis_name,
        exchange=exchange, decay=decay, accumulator_dtype=accumulator_dtype,
        momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, mask=mask,
    )

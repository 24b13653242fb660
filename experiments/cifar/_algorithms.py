"""The optimizers that the papers compare on CIFAR."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax

import ef_optax
from experiments.training import Algorithm

MOMENTUM = 0.9


class Entry(NamedTuple):
    """An algorithm of the papers.

    Attributes:
      label: as the papers call it.
      make: from a weight decay to an `Algorithm`.
    """

    label: str
    make: Any


def _mean(axis_name: str | None) -> list[optax.GradientTransformation]:
    """Returns the full-precision mean over the workers, nothing for one."""
    if axis_name is None:
        return []
    return [ef_optax.compress(ef_optax.identity(), axis_name=axis_name)]


def sgdm(weight_decay: float) -> Algorithm:
    """SGD with momentum, as `torch.optim.SGD`."""
    return lambda learning_rate, axis_name: optax.chain(
        *_mean(axis_name),
        optax.add_decayed_weights(weight_decay),
        optax.trace(MOMENTUM),
        optax.scale_by_learning_rate(learning_rate),
    )


def scaled_sign(weight_decay: float) -> Algorithm:
    """Scaled signSGD, without momentum."""
    return lambda learning_rate, axis_name: ef_optax.scaled_sign_sgd(
        learning_rate, axis_name=axis_name, weight_decay=weight_decay
    )


def signum(weight_decay: float) -> Algorithm:
    """SIGNSGDM: the sign of momentum, with the weights' decay inside the momentum."""
    return lambda learning_rate, axis_name: optax.chain(
        optax.add_decayed_weights(weight_decay),
        ef_optax.signum(
            learning_rate, MOMENTUM, momentum="heavy_ball", axis_name=axis_name
        ),
    )


def ef_sign(weight_decay: float) -> Algorithm:
    """EF-signSGD, without momentum."""
    return lambda learning_rate, axis_name: ef_optax.ef_sign_sgd(
        learning_rate, axis_name=axis_name, weight_decay=weight_decay
    )


def adam(weight_decay: float) -> Algorithm:
    """Adam, its weight decay in the gradient as Bernstein et al. had it."""
    return lambda learning_rate, axis_name: optax.chain(
        *_mean(axis_name),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(learning_rate),
    )


ALGORITHMS = {
    "sgdm": Entry("SGDm", sgdm),
    "scaled_sign": Entry("scaled signSGD", scaled_sign),
    "signum": Entry("signSGDm", signum),
    "ef_sign": Entry("EF-signSGD", ef_sign),
    "adam": Entry("Adam", adam),
}


def algorithm(name: str, weight_decay: float) -> Algorithm:
    """Returns an algorithm by name, from a learning rate and axis to an optimizer."""
    return ALGORITHMS[name].make(weight_decay)

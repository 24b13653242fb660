"""The methods that are compared, and what a step of one sends."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

import ef_optax
from experiments._workers import worker_devices
from experiments.training import AXIS, Algorithm


class Method(NamedTuple):
    """A way to train with several workers.

    Attributes:
      label: what it is called.
      make: from a learning rate, maybe traced, and the axis of the workers.
      attacked: by what adversaries multiply their gradients, negated; a vote does not
        see it.
    """

    label: str
    make: Algorithm
    attacked: tuple[float, ...] = ()


def sgd(learning_rate: Any, axis_name: Any) -> optax.GradientTransformation:
    """SGD on gradients averaged in full precision."""
    return optax.chain(
        ef_optax.compress(ef_optax.identity(), axis_name=axis_name),
        optax.scale_by_learning_rate(learning_rate),
    )


# One bit a coordinate and way, as in the first paper: what is 0 counts as positive.
ONE_BIT: Any = {"wire": "packed", "zero": "positive", "tie": "positive"}

METHODS = {
    "sgd": Method("SGD", sgd, (1.0, 10.0)),
    "sign_sgd": Method(
        "signSGD, vote", lambda lr, axis: ef_optax.sign_sgd(lr, axis_name=axis), (1.0,)
    ),
    "sign_sgd_packed": Method(
        "signSGD, packed vote",
        lambda lr, axis: ef_optax.sign_sgd(lr, axis_name=axis, **ONE_BIT),
    ),
    "signum_packed": Method(
        "Signum, packed vote",
        lambda lr, axis: ef_optax.signum(lr, 0.9, axis_name=axis, **ONE_BIT),
    ),
    "scaled_sign": Method(
        "scaled sign, gathered",
        lambda lr, axis: ef_optax.scaled_sign_sgd(lr, axis_name=axis),
    ),
    "ef_sign_sgd": Method(
        "EF-signSGD, gathered",
        lambda lr, axis: ef_optax.ef_sign_sgd(lr, axis_name=axis), (1.0, 10.0),
    ),
    "ef_two_way": Method(
        "EF-signSGD, two-way",
        lambda lr, axis: ef_optax.ef_sign_sgd(
            lr, axis_name=axis, exchange=ef_optax.two_way()
        ),
    ),
}


def wire(name: str, workers: int, params: Any) -> ef_optax.WireReport:
    """Returns what one update sends, read off its program for so many devices.

    Args:
      name: of the method.
      workers: how many.
      params: arrays of the shapes of a gradient.
    """

    def update(grads: Any) -> Any:
        tx = METHODS[name].make(1e-3, AXIS)
        return tx.update(grads, tx.init(grads), grads)[0]

    mapped = jax.pmap(update, axis_name=AXIS, devices=worker_devices(workers))
    grads = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct((workers, *p.shape), p.dtype), params
    )
    return ef_optax.wire_report(mapped, grads, parameters=params)

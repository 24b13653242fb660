"""The papers' optimizers, each a chain."""

from ef_optax.optimizers._accept import AcceptState, accept_if_lower
from ef_optax.optimizers._feedback import ef_sgd, ef_sign_sgd
from ef_optax.optimizers._sign import (
    scaled_sign_sgd,
    sign_sgd,
    signum,
    signum_warmup_steps,
    stochastic_sign_sgd,
)

__all__ = [
    "AcceptState",
    "accept_if_lower",
    "ef_sgd",
    "ef_sign_sgd",
    "scaled_sign_sgd",
    "sign_sgd",
    "signum",
    "signum_warmup_steps",
    "stochastic_sign_sgd",
]

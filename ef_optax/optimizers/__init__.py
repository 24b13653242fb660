"""The papers' optimizers, each a chain."""

from ef_optax.optimizers._feedback import ef_sgd, ef_sign_sgd
from ef_optax.optimizers._sign import (
    scaled_sign_sgd,
    sign_sgd,
    signum,
    signum_warmup_steps,
    stochastic_sign_sgd,
)

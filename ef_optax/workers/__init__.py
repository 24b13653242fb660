"""The workers along a mesh axis, their collectives, and what belongs to one of them."""

from ef_optax.workers._gradients import local_value_and_grad
from ef_optax.workers._own import (
    declares,
    per_worker_leaves,
    state_owners,
)
from ef_optax.workers._workers import AxisName, Workers

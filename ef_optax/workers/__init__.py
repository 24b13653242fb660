"""Workers along a mesh axis, and what belongs to one of them."""

from ef_optax.workers._exempt import ExemptState, exempt
from ef_optax.workers._local import LocalState, local, local_value_and_grad, per_worker
from ef_optax.workers._workers import AxisName, Workers

__all__ = [
    "AxisName",
    "ExemptState",
    "LocalState",
    "Workers",
    "exempt",
    "local",
    "local_value_and_grad",
    "per_worker",
]

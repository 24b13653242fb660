"""Workers along a mesh axis, and what belongs to one of them."""

from ef_optax.workers._accumulate import AccumulateState, accumulate
from ef_optax.workers._exempt import ExemptState, exempt
from ef_optax.workers._local import (
    LocalState,
    declares,
    local,
    local_value_and_grad,
    per_worker,
    per_worker_leaves,
)
from ef_optax.workers._mesh import worker_mesh
from ef_optax.workers._placement import over_workers
from ef_optax.workers._resize import resize_workers
from ef_optax.workers._skip_nonfinite import SkipNonfiniteState, skip_nonfinite
from ef_optax.workers._specs import state_specs
from ef_optax.workers._workers import AxisName, Workers

__all__ = [
    "AccumulateState",
    "AxisName",
    "ExemptState",
    "LocalState",
    "SkipNonfiniteState",
    "Workers",
    "accumulate",
    "declares",
    "exempt",
    "local",
    "local_value_and_grad",
    "over_workers",
    "per_worker",
    "per_worker_leaves",
    "resize_workers",
    "skip_nonfinite",
    "state_specs",
    "worker_mesh",
]

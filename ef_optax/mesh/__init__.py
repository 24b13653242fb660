"""Workers under plain jit: one on each device of a mesh."""

from ef_optax.mesh._mesh import worker_mesh
from ef_optax.mesh._over_workers import over_workers
from ef_optax.mesh._resize import resize_workers
from ef_optax.mesh._specs import state_specs

"""Transformations around transformations, for trainings with several workers."""

from ef_optax.wrappers._accept import AcceptState, accept_if_lower
from ef_optax.wrappers._accumulate import AccumulateState, accumulate
from ef_optax.wrappers._local import LocalState, local
from ef_optax.wrappers._skip_nonfinite import SkipNonfiniteState, skip_nonfinite

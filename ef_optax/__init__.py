"""Gradient compression with error feedback for JAX, as optax transformations.

What is sent: `compressors`. What is kept of the rest: `feedback`. How messages become
one update: `exchange` and `vote`. Who takes part, and who owns which state: `workers`.
Around whole optimizers: `wrappers`. Under plain jit: `mesh`. The papers' optimizers,
chains of all these: `optimizers`. What one can measure: `measures` and `wire`.
"""

from ef_optax import measures
from ef_optax.compressors import (
    Compressor,
    Template,
    cast,
    identity,
    k_pca,
    random_k,
    scaled_sign,
    sign,
    stochastic_sign,
    top_k,
)
from ef_optax.exchange import (
    Exchange,
    Exchanged,
    TwoWayState,
    all_reduce,
    gather,
    two_way,
)
from ef_optax.feedback import (
    CompressState,
    ErrorFeedbackState,
    Exempt,
    ExemptState,
    Memory,
    compress,
    error_feedback,
    exempt,
)
from ef_optax.measures import (
    MeasuresState,
    contraction,
    density,
    error_norm,
    record_measures,
)
from ef_optax.mesh import over_workers, resize_workers, state_specs, worker_mesh
from ef_optax.optimizers import (
    ef_sgd,
    ef_sign_sgd,
    scaled_sign_sgd,
    sign_sgd,
    signum,
    signum_warmup_steps,
    stochastic_sign_sgd,
)
from ef_optax.vote import majority_vote, vote_sum
from ef_optax.wire import WireReport, message_bits, wire_report
from ef_optax.workers import Workers, local_value_and_grad
from ef_optax.wrappers import (
    AcceptState,
    AccumulateState,
    LocalState,
    SkipNonfiniteState,
    accept_if_lower,
    accumulate,
    local,
    skip_nonfinite,
)

__version__ = "0.1.0"

__all__ = [
    "AcceptState", "AccumulateState", "CompressState", "Compressor",
    "ErrorFeedbackState", "Exchange", "Exchanged", "Exempt", "ExemptState",
    "LocalState", "MeasuresState", "Memory", "SkipNonfiniteState", "Template",
    "TwoWayState", "WireReport", "Workers", "accept_if_lower", "accumulate",
    "all_reduce", "cast", "compress", "contraction", "density", "ef_sgd", "ef_sign_sgd",
    "error_feedback", "error_norm", "exempt", "gather", "identity", "k_pca", "local",
    "local_value_and_grad", "majority_vote", "measures", "message_bits", "over_workers",
    "random_k", "record_measures", "resize_workers", "scaled_sign", "scaled_sign_sgd",
    "sign", "sign_sgd", "signum", "signum_warmup_steps", "skip_nonfinite",
    "state_specs", "stochastic_sign", "stochastic_sign_sgd", "top_k", "two_way",
    "vote_sum", "wire_report", "worker_mesh",
]

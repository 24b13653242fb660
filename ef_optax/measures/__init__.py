"""What the papers measure: density, contraction, errors, norms, noise and bits."""

from ef_optax.measures._bits import bits_per_step
from ef_optax.measures._contraction import contraction
from ef_optax.measures._density import density
from ef_optax.measures._errors import error_norm
from ef_optax.measures._norms import l12_norm, rho_m_norm, rho_norm
from ef_optax.measures._record import MeasuresState, record_measures
from ef_optax.measures._span import span_distance
from ef_optax.measures._success import success_probabilities
from ef_optax.measures._welford import (
    WelfordState,
    welford_finalize,
    welford_init,
    welford_update,
)

__all__ = [
    "MeasuresState",
    "WelfordState",
    "bits_per_step",
    "contraction",
    "density",
    "error_norm",
    "l12_norm",
    "record_measures",
    "rho_m_norm",
    "rho_norm",
    "span_distance",
    "success_probabilities",
    "welford_finalize",
    "welford_init",
    "welford_update",
]

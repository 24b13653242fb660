"""What the papers measure: density, contraction, errors, noise, signs and bits.

All sums are over a whole pytree, in float32, or float64 where a leaf is. Leaves that
are not floating point are refused with a ``ValueError``.
"""

from ef_optax.measures._noise import (
    WelfordState,
    welford_finalize,
    welford_init,
    welford_update,
)
from ef_optax.measures._record import MeasuresState, error_norm, record_measures
from ef_optax.measures._signs import (
    bits_per_step,
    l12_norm,
    rho_m_norm,
    rho_norm,
    success_probabilities,
)
from ef_optax.measures._vectors import contraction, density, span_distance

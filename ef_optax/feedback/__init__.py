"""What is kept of what was not sent."""

from ef_optax.feedback._compress import CompressState, compress
from ef_optax.feedback._error_feedback import ErrorFeedbackState, Memory, error_feedback
from ef_optax.feedback._exempt import Exempt, ExemptState, exempt

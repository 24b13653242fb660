"""What is kept of what was not sent."""

from ef_optax.feedback._compress import CompressState, compress
from ef_optax.feedback._error_feedback import ErrorFeedbackState, error_feedback

__all__ = ["CompressState", "ErrorFeedbackState", "compress", "error_feedback"]

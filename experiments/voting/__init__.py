"""Majority vote at work: more workers, workers against the others, bits.

`python -m experiments majority_vote` trains the quickstart's network with 1 to 15
workers whose batches have one size, with up to 40% of 15 workers sending the opposite
of their gradient, and by seven methods whose bytes are read off compiled programs.
`--tune` finds the learning rates.
"""

from experiments.voting._config import Config
from experiments.voting._study import run

__all__ = ["Config", "run"]

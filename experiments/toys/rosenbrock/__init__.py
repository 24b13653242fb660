"""The Rosenbrock function: Figures 2, 4, 6 and 8 of Safaryan and Richtarik.

`python -m experiments rosenbrock` runs signSGD with four mini-batches and constant or
decreasing steps, with four step sizes, and with 1 to 16 voting workers; f, and the
success probabilities of its signs along the run, which are known exactly here.
"""

from experiments.toys.rosenbrock._config import Config
from experiments.toys.rosenbrock._study import run

__all__ = ["Config", "run"]

"""MNIST with a single hidden layer: Figures 3 and 5 of Safaryan and Richtarik.

`python -m experiments mnist` trains with signSGD and SGD on standard and on split
batches, each tuned for fixed budgets of communicated megabytes, and looks at the
distribution of stochastic gradients.
"""

from experiments.mnist._config import Config
from experiments.mnist._study import run

__all__ = ["Config", "run"]

"""The l^{1,2} norm: Figures 1 and 7 of Safaryan and Richtarik.

`python -m experiments level_sets` draws its level sets at four distances from 0 and
its unit balls at several levels of noise, and measures how far they are from circles
and from diamonds.
"""

from experiments.toys.level_sets._config import Config
from experiments.toys.level_sets._study import run

__all__ = ["Config", "run"]

"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import linen as nn


class MLP(nn.Module):
    """A multilayer perceptron with rectified linear units.

    Attributes:
      widths: of the hidden layers.
      classes: how many logits come out.
    """

    widths: Sequence[int]
    classes: int = 10

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Returns logits [..., classes] of inputs [..., features]."""
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)

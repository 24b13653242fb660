"""VGG networks for images of 32 x 32 pixels."""

from __future__ import annotations

from typing import Any

from flax import linen as nn

# Channels of each convolution; 0 is a maximum over 2 x 2.
VGG19 = (
    64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0,
    512, 512, 512, 512, 0, 512, 512, 512, 512, 0,
)


class VGG(nn.Module):
    """VGG19 with batch normalisation, as the 2019 experiments had it: no dropout.

    Attributes:
      classes: how many logits come out.
    """

    classes: int = 10

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """Returns logits [n, classes] of images [n, 32, 32, channels]."""
        for width in VGG19:
            if width == 0:
                x = nn.max_pool(x, (2, 2), (2, 2))
                continue
            # Convolutions have biases, though normalisation takes them away again.
            x = nn.Conv(
                width, (3, 3), padding=1, kernel_init=nn.initializers.he_normal()
            )(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(self.classes)(x.reshape(len(x), -1))

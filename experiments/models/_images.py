"""The networks for images, by name."""

from __future__ import annotations

from collections.abc import Callable

from flax import linen as nn

from experiments.models._resnet import ResNet
from experiments.models._vgg import VGG

# From a number of classes to a network.
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": lambda n: ResNet((2, 2, 2, 2), (64, 128, 256, 512), n),
    "vgg19": lambda n: VGG(n),
    "resnet20": lambda n: ResNet((3, 3, 3), (16, 32, 64), n),
    "resnet8": lambda n: ResNet((1, 1, 1), (16, 32, 64), n),
    # For two cores: the first convolution leaves 16 x 16 pixels.
    "resnet8_16": lambda n: ResNet((1, 1, 1), (16, 32, 64), n, stem_stride=2),
    # For tests.
    "resnet4_tiny": lambda n: ResNet((1,), (4,), n, stem_stride=2),
}


def build(name: str, classes: int) -> nn.Module:
    """Returns a network by name.

    Raises:
      ValueError: if there is no such network.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}; got {name!r}.")
    return MODELS[name](classes)

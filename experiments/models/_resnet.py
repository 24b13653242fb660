"""Residual networks for images of 32 x 32 pixels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

# He et al.'s initial values, for networks of rectified linear units.
Conv = functools.partial(
    nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal()
)


class Block(nn.Module):
    """Two convolutions and a shortcut.

    Attributes:
      width: channels that come out.
      stride: of the first convolution.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        """Returns [n, height / stride, width / stride, self.width]."""
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        strides = (self.stride, self.stride)
        y = Conv(self.width, (3, 3), strides, padding=1)(x)
        y = nn.relu(norm(momentum=0.9)(y))
        y = norm(momentum=0.9)(Conv(self.width, (3, 3), padding=1)(y))
        if x.shape != y.shape:
            x = norm(momentum=0.9)(Conv(self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network of basic blocks with batch normalisation.

    The form for CIFAR: one 3 x 3 convolution, no pooling before the stages, and a
    projection (1 x 1 convolution, normalised) where the shape changes.

    Attributes:
      blocks: how many in each stage.
      widths: channels of each stage.
      classes: how many logits come out.
      stem_stride: of the first convolution; 2 makes all cheaper by four.
    """

    blocks: Sequence[int]
    widths: Sequence[int]
    classes: int = 10
    stem_stride: int = 1

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """Returns logits [n, classes] of images [n, height, width, channels]."""
        stem = (self.stem_stride, self.stem_stride)
        x = Conv(self.widths[0], (3, 3), stem, padding=1)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        for stage, (count, width) in enumerate(
            zip(self.blocks, self.widths, strict=True)
        ):
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                x = Block(width, stride)(x, train)
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))

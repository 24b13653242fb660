"""Networks of the studies; no training code."""

from experiments.models._images import MODELS, build
from experiments.models._mlp import MLP
from experiments.models._resnet import ResNet
from experiments.models._vgg import VGG

__all__ = ["MLP", "MODELS", "VGG", "ResNet", "build"]

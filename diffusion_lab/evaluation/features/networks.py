"""The networks of trained extractors by name, and their weights as they are stored."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lab.evaluation.features.classifier import Classifier, FeatureNetwork
from diffusion_lab.evaluation.features.resnet import ResNet, stride_for

CNN, RESNET = "cnn", "resnet"
NETWORKS = (CNN, RESNET)
_MAX_SIDE = 32
"""Longest side of gray images for which the small classifier is enough."""


def network_for(image_shape: tuple[int, int, int]) -> str:
    """Return the name of the network for images (C, H, W): cnn for small gray ones, or resnet."""
    channels, *sides = image_shape
    return CNN if channels == 1 and max(sides) <= _MAX_SIDE else RESNET


def build_network(
    name: str, image_shape: Sequence[int], num_classes: int, num_features: int
) -> FeatureNetwork:
    """Build the untrained network `name` for images (C, H, W); ValueError for another name."""
    channels, height, width = image_shape
    if name == CNN:
        return Classifier(channels, num_classes, num_features)
    if name == RESNET:
        return ResNet(channels, num_classes, num_features, stride_for(height, width))
    raise ValueError(f"network={name}: expected one of {NETWORKS}")


def stored(network: FeatureNetwork) -> dict[str, Tensor]:
    """Return the weights for the file: matrices and filters of a ResNet in half precision."""
    weights = network.state_dict()
    if isinstance(network, Classifier):
        return weights
    return {
        name: tensor.half() if tensor.ndim > 1 and tensor.dtype == torch.float32 else tensor
        for name, tensor in weights.items()
    }

"""Networks of trained extractors, by name, and the format in which weights are stored."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffusion_lab.evaluation.features.classifier import Classifier, FeatureNetwork
from diffusion_lab.evaluation.features.resnet import ResNet, stride_for

CNN, RESNET = "cnn", "resnet"
NETWORKS = (CNN, RESNET)
_MAX_SIDE = 32
"""Longest side of gray images for which the small classifier is enough."""
_SCALE = ".scale"
"""Suffix of the names of the filters' scales in a file."""


def network_for(image_shape: tuple[int, int, int]) -> str:
    """Return the architecture for images (C, H, W): cnn for small gray ones, or resnet."""
    channels, *sides = image_shape
    return CNN if channels == 1 and max(sides) <= _MAX_SIDE else RESNET


def build_network(
    name: str, image_shape: Sequence[int], num_classes: int, num_features: int
) -> FeatureNetwork:
    """Build an untrained network for images (C, H, W); ValueError for an unknown architecture."""
    channels, height, width = image_shape
    if name == CNN:
        return Classifier(channels, num_classes, num_features)
    if name == RESNET:
        return ResNet(channels, num_classes, num_features, stride_for(height, width))
    raise ValueError(f"architecture={name}: expected one of {NETWORKS}")


def packed(network: FeatureNetwork) -> dict[str, Tensor]:
    """Return the weights in the format of the file.

    The filters of a ResNet are stored in 8 bits with one scale per filter. The weights of the small
    classifier are unchanged.
    """
    weights: dict[str, Tensor] = network.state_dict()
    if isinstance(network, Classifier):
        return weights
    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.ndim < 2:
            stored[name] = tensor
            continue
        scale = tensor.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
        rounded = (tensor / _per_row(scale, tensor)).round()
        stored |= {name: rounded.to(torch.int8), f"{name}{_SCALE}": scale}
    return stored


def unpacked(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights from the format of the file to single precision, for the network."""
    return {
        name: tensor.float() * _per_row(stored[f"{name}{_SCALE}"], tensor)
        if tensor.dtype == torch.int8
        else tensor
        for name, tensor in stored.items()
        if not name.endswith(_SCALE)
    }


def _per_row(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (tensor.ndim - 1))

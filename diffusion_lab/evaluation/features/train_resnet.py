"""Training of the residual network whose features score colour images."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.augmentation import Augmentation, CropAndFlip
from diffusion_lab.evaluation.features.classifier import FeatureNetwork
from diffusion_lab.evaluation.features.resnet import MIN_SIDE, SAMPLE, ResNet, stride_for
from diffusion_lab.evaluation.features.train_classifier import Training
from diffusion_lab.optim.lr_schedule import OneCycle
from diffusion_lab.optim.muon import Muon

_SIZES = (0.75, 0.875, 1.0)
"""Relative size of the images in each third of the training: small images are cheaper."""
_LABEL_SMOOTHING = 0.1
_RATIO = 0.08
"""Learning rate of vectors and of the last layer, relative to that of the filters."""


@dataclass(frozen=True)
class ResNetTraining(Training):
    """Muon with a one-cycle schedule on cropped, mirrored images that grow during training.

    Args:
        max_epochs: number of epochs.
        lr: highest learning rate of the cycle, for the convolution filters.
        weight_decay: weight decay of the optimizer.
        augmentation: random transformation of the images.
        seed: seed of the initial weights and of the augmentation.

    Raises:
        UserError: for a number out of range.

    """

    max_epochs: int = 28
    lr: float = 0.05
    weight_decay: float = 0.01
    augmentation: Augmentation = field(default_factory=CropAndFlip)

    batch_size: ClassVar[int] = 250

    def check(self, image_shape: tuple[int, int, int]) -> None:
        _, height, width = image_shape
        if min(height, width) < MIN_SIDE:
            raise UserError(
                f"the images are {height}x{width}: expected at least {MIN_SIDE} pixels on each "
                "side for architecture=resnet; type architecture=cnn, or a larger data.image_size="
            )

    def network(self, images: Tensor, num_classes: int) -> FeatureNetwork:
        _, channels, height, width = images.shape
        network = ResNet(channels, num_classes, stride=stride_for(height, width))
        network.whiten(ValueRange("zero_one").encode(images[:SAMPLE]))
        return network

    def optimizer(self, network: FeatureNetwork, total_steps: int) -> tuple[Any, Any]:
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = Muon(
            trained, self.lr, adamw_lr=self.lr * _RATIO, weight_decay=self.weight_decay
        )
        cycle = OneCycle()
        return optimizer, torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cycle(step / total_steps)
        )

    def resized(self, images: Tensor, progress: float) -> Tensor:
        share = _SIZES[min(int(progress * len(_SIZES)), len(_SIZES) - 1)]
        if share == 1:
            return images
        size = [round(side * share) for side in images.shape[2:]]
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=_LABEL_SMOOTHING)

"""Training of the classifier whose features score images."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import Diverged, UserError
from diffusion_lab.evaluation.features.augmentation import Affine, Augmentation
from diffusion_lab.evaluation.features.classifier import MIN_SIDE, Classifier, FeatureNetwork


@dataclass(frozen=True)
class Training:
    """AdamW with a one-cycle schedule on augmented images, for the small classifier.

    Args:
        max_epochs: number of epochs.
        lr: highest learning rate of the cycle.
        weight_decay: weight decay of the optimizer.
        augmentation: random transformation of the images.
        seed: seed of the initial weights and of the augmentation.

    Raises:
        UserError: for a number out of range.

    """

    max_epochs: int = 12
    lr: float = 0.004
    weight_decay: float = 0.05
    augmentation: Augmentation = field(default_factory=Affine)
    seed: int = 0

    batch_size: ClassVar[int] = 128
    """Batch size that the other settings are made for."""

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise UserError(
                f"max_epochs={self.max_epochs}: expected at least 1, for example max_epochs=12"
            )
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr={self.lr}: expected a number above 0, for example lr=0.004")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay={self.weight_decay}: expected a number of at least 0")

    def __call__(
        self,
        train: InMemoryLoader,
        held_out: InMemoryLoader,
        num_classes: int,
        device: torch.device | str = "cpu",
        progress: Callable[[int, float, int], None] | None = None,
    ) -> FeatureNetwork:
        """Train a classifier and return it, on the CPU, with the weights of its best epoch.

        The best epoch is the one with the fewest errors on the held-out images; of equal epochs it
        is the latest. The test images are not used.

        Args:
            train: shuffled uint8 images and their labels.
            held_out: validation images and their labels, in order.
            num_classes: labels are 0 to num_classes - 1.
            device: device of the training.
            progress: called after each epoch with its number, mean loss and errors on `held_out`.

        Raises:
            Diverged: if the loss becomes NaN or infinite.

        """
        torch.manual_seed(self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        network = self.network(train.images, num_classes)
        # channels_last is twice as fast on a CPU
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        total_steps = self.max_epochs * len(train)
        optimizer, schedule = self.optimizer(network, total_steps)
        encode = ValueRange("zero_one").encode
        best, fewest = copy.deepcopy(network.state_dict()), math.inf
        for epoch in range(self.max_epochs):
            network.train()
            total = torch.zeros(())
            for images, labels in train:
                x = self.augmentation(encode(images.to(device)), generator)
                x = self.resized(x, schedule.last_epoch / total_steps)
                loss = self.loss(network(x), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach().cpu()
            mean = float(total) / len(train)
            if not math.isfinite(mean):
                raise Diverged(
                    f"the loss is {mean} after epoch {epoch}: lower lr=, for example "
                    f"lr={self.lr / 3:.2g}"
                )
            errors = count_errors(network, held_out)
            if errors <= fewest:
                best, fewest = copy.deepcopy(network.state_dict()), errors
            if progress is not None:
                progress(epoch, mean, errors)
        network.load_state_dict(best)
        return network.eval().to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def settings(self) -> dict[str, Any]:
        """Return the settings as a dict with the names of configs/train_extractor.yaml."""
        named = asdict(self)
        return named | named.pop("augmentation")

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raise UserError if the network cannot take images (C, H, W)."""
        _, height, width = image_shape
        if min(height, width) < MIN_SIDE:
            raise UserError(
                f"the images are {height}x{width}: expected at least {MIN_SIDE} pixels on each "
                "side; type a larger data.image_size=, or score with extractor=inception"
            )

    def network(self, images: Tensor, num_classes: int) -> FeatureNetwork:
        """Build the untrained network for uint8 training images (N, C, H, W)."""
        return Classifier(images.shape[1], num_classes)

    def optimizer(self, network: FeatureNetwork, total_steps: int) -> tuple[Any, Any]:
        """Return the optimizer and its learning-rate schedule."""
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, total_steps=total_steps
        )

    def resized(self, images: Tensor, progress: float) -> Tensor:
        """Return the images (B, C, H, W) in the size used at this point of the training.

        `progress` is the finished fraction of the training. This class never resizes images, but a
        subclass may.
        """
        return images

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of logits (B, K) for labels (B,)."""
        return F.cross_entropy(logits, labels)


@torch.no_grad()
def count_errors(network: FeatureNetwork, images: InMemoryLoader) -> int:
    """Count the images that the network misclassifies."""
    network.eval()
    device = network.head.weight.device
    encode = ValueRange("zero_one").encode
    wrong: list[Tensor] = [
        (network(encode(batch.to(device))).argmax(dim=1).cpu() != labels).sum()
        for batch, labels in images
    ]
    return int(sum(wrong))

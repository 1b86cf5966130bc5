"""A fixed network that sees images as features, so that sets of images can be compared."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.classifier import Classifier

MAX_BORDER = 32.0
"""The mean pixel, of 255, up to which what surrounds an image counts as black."""


@dataclass(frozen=True)
class Features:
    """What an extractor sees in N images."""

    values: np.ndarray
    """float64 (N, F)."""
    probabilities: np.ndarray
    """float64 (N, num_classes), rows that sum to 1; (N, 0) of an extractor that tells no classes
    of this data apart."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> Features:
        """Return the features of some of the images."""
        return Features(self.values[index], self.probabilities[index])

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """Join one or more in order."""
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
        )


class Extractor(ABC):
    """A network whose weights are fixed, on the CPU; called with images it returns Features.

    Args:
        network: maps (B, C, H, W) in [0, 1] to (features (B, F), probabilities (B, K)).
        name: what it is loaded by.
        sha256: of the file of its weights, hex.
        num_features: F.
        num_classes: K; 0 where it tells no classes of this data apart.
        image_shape: (C, H, W) of what the network takes.

    """

    batch_size = 250
    resize_rule: str
    """What is done to images of another size; part of a cached reference's key."""

    def __init__(
        self,
        network: Callable[[Tensor], tuple[Tensor, Tensor]],
        name: str,
        sha256: str,
        num_features: int,
        num_classes: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        self.network, self.name, self.sha256 = network, name, sha256
        self.num_features, self.num_classes = num_features, num_classes
        self.image_shape = image_shape

    @abstractmethod
    def fit(self, images: Tensor) -> Tensor:
        """Bring uint8 (N, C, H, W) to the network's size, uint8; UserError where no rule does."""

    def unpad(self, images: Tensor) -> Tensor:
        """Cut images of a run (N, C, H, W) to the size that data.image_size padded, if need be.

        Whatever the model has drawn on the border.
        """
        return images

    @torch.no_grad()
    def __call__(self, images: Tensor, progress: Callable[[int], None] | None = None) -> Features:
        """Return what is seen in uint8 images (N, C, H, W).

        Args:
            images: of a size that the extractor takes or that its rule of size covers.
            progress: told the number of images of each batch when it is done.

        Raises:
            UserError: for anything else.

        """
        check_pixels(images)
        images = self.fit(images.cpu())
        encode = ValueRange("zero_one").encode
        parts = [self._empty()]
        for batch in images.split(self.batch_size) if len(images) else ():
            values, probabilities = self.network(encode(batch))
            parts.append(Features(values.double().numpy(), probabilities.double().numpy()))
            if progress is not None:
                progress(len(batch))
        return Features.concatenate(parts)

    def _empty(self) -> Features:
        return Features(np.empty((0, self.num_features)), np.empty((0, self.num_classes)))


class TrainedExtractor(Extractor):
    """A classifier that scripts/train_extractor.py trained.

    Args:
        network: the classifier.
        record: its json: version, sha256, image_shape, data ...
        folder: where its files lie.

    """

    resize_rule = "crop"

    def __init__(self, network: Classifier, record: dict[str, Any], folder: Path) -> None:
        network.eval().requires_grad_(False)

        def see(x: Tensor) -> tuple[Tensor, Tensor]:
            features = network.features(x)
            # in double precision the rows sum to 1 as closely as the metrics compute
            return features, network.head(features).double().softmax(dim=1)

        channels, height, width = record["image_shape"]
        super().__init__(
            see,
            record["version"],
            record["sha256"],
            network.num_features,
            network.num_classes,
            (channels, height, width),
        )
        self.record, self.folder = record, folder
        self.data: str = record["data"]["dataset"]  # what it was trained on, such as mnist

    def unpad(self, images: Tensor) -> Tensor:
        return unpadded(images, self.image_shape)

    def fit(self, images: Tensor) -> Tensor:
        channels, height, width = self.image_shape
        if images.shape[1] != channels:
            raise UserError(
                f"the images have {images.shape[1]} channels, extractor {self.name} takes "
                f"{channels}: compare runs of such images by extractor=inception, or train one of "
                "their own, python scripts/train_extractor.py data=..."
            )
        if images.shape[2:] == (height, width):
            return images
        inner = unpadded(images, self.image_shape)
        border = images.numel() - inner.numel()
        if len(images):
            mean = float(images.sum(dtype=torch.float64) - inner.sum(dtype=torch.float64)) / border
            if mean > MAX_BORDER:
                raise UserError(
                    f"the images are {images.shape[2]}x{images.shape[3]} and what surrounds their "
                    f"inner {height}x{width} is not black but {mean:.0f} of 255 on average: "
                    f"extractor {self.name} takes {height}x{width} or the same padded with black"
                )
        return inner


def check_pixels(images: Tensor) -> None:
    """Raise UserError unless these are uint8 images (N, C, H, W)."""
    if not isinstance(images, Tensor):
        raise UserError(f"the images are {type(images).__name__}: expected a tensor of uint8")
    if images.dtype != torch.uint8:
        broken = images.is_floating_point() and not bool(images.isfinite().all())
        raise UserError(
            f"the images are {str(images.dtype).removeprefix('torch.')}"
            f"{' and not all finite' if broken else ''}: expected pixels, uint8 from 0 to 255; "
            "of values in [0, 1] that is (x * 255).round()"
        )
    if images.ndim != 4:
        raise UserError(f"the images have shape {tuple(images.shape)}: expected (N, C, H, W)")


def unpadded(images: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Undo data.image_size, which pads evenly: the middle of images (N, C, H, W), whatever is cut.

    Raises UserError where `image_shape` padded evenly cannot have that size.
    """
    _, height, width = image_shape
    down, right = images.shape[2] - height, images.shape[3] - width
    if down != right or down < 0 or down % 2:
        raise UserError(
            f"the images are {images.shape[2]}x{images.shape[3]}: expected {height}x{width}, or "
            f"the same padded evenly with black, such as {height + 4}x{width + 4} "
            f"(data.image_size={height} or {height + 4})"
        )
    border = down // 2
    return images[:, :, border : border + height, border : border + width]


RESTORE = "restore it, for a shipped one by git or pip, or train another version"


def verified(file: Path, expected: str) -> bytes:
    """Read a file whose SHA-256 is known; UserError if it is another's."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): {RESTORE}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise UserError(
            f"{file} has been altered: its sha256 begins with {found[:8]}, its record says "
            f"{str(expected)[:8]}: {RESTORE}"
        )
    return content


INCEPTION = "inception"

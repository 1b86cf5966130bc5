"""Feature extractors: fixed networks whose features are used to compare sets of images."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.classifier import FeatureNetwork

NAMED_SOURCES = ("full", "bundled", "fake", "function")
"""Sources of data sets that are identified by their name."""
MAX_BORDER = 32.0
"""Largest mean pixel value (of 255) of a border that counts as black."""


@dataclass(frozen=True)
class Features:
    """Features and class probabilities of N images."""

    values: np.ndarray
    """float64 (N, F)."""
    probabilities: np.ndarray
    """float64 (N, num_classes), rows sum to 1; (N, 0) for an extractor without classes."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> Features:
        """Return the features of a subset of the images."""
        return Features(self.values[index], self.probabilities[index])

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """Concatenate one or more Features."""
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
        )


class Extractor(ABC):
    """A fixed network that maps images to Features.

    Args:
        network: maps (B, C, H, W) in [0, 1] to (features (B, F), probabilities (B, K)).
        name: name for `load_extractor`.
        sha256: SHA-256 (hex) of the weights' file.
        num_features: number of features F.
        num_classes: number of classes K; 0 if the network's classes are not those of the data.
        image_shape: (C, H, W) of the network's input.

    """

    batch_size = 250
    resize_rule: str
    """Name of the rule for images of another size; part of a cached reference's key."""

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
        """Convert uint8 (N, C, H, W) to the network's input size; UserError if unsupported."""

    def unpad(self, images: Tensor) -> Tensor:
        """Cut off the border that data.image_size= added to images (N, C, H, W), black or not.

        The images are returned unchanged if the extractor accepts every size.
        """
        return images

    @torch.no_grad()
    def __call__(self, images: Tensor, progress: Callable[[int], None] | None = None) -> Features:
        """Return the features of uint8 images (N, C, H, W).

        Args:
            images: images of a size that `fit` supports.
            progress: called after each batch with its number of images.

        Raises:
            UserError: for images of another type, shape or size.

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
    """A classifier trained by scripts/train_extractor.py, as a feature extractor.

    Args:
        network: the classifier.
        record: content of the extractor's JSON file: version, sha256, image_shape, data ...
        folder: folder of the extractor's files.

    """

    resize_rule = "crop"

    def __init__(self, network: FeatureNetwork, record: dict[str, Any], folder: Path) -> None:
        network.eval().requires_grad_(False)

        def features_and_probabilities(x: Tensor) -> tuple[Tensor, Tensor]:
            features = network.features(x)
            # in double precision, like the metrics, so that rows sum to 1
            return features, network.head(features).double().softmax(dim=1)

        channels, height, width = record["image_shape"]
        super().__init__(
            features_and_probabilities,
            record["version"],
            record["sha256"],
            network.num_features,
            network.num_classes,
            (channels, height, width),
        )
        self.record, self.folder = record, folder
        self.reference_file = folder / f"{self.name}.reference.safetensors"
        self.trained: dict[str, Any] = record["data"]
        """Provenance of the training data; the held-out images are the first of its order."""

    def trained_on(self, data: str, sha256: str | None = None) -> bool:
        """Return True if the extractor was trained on the data set called `data`.

        Published data sets, synthetic data sets and data sets that a user's function returns
        (data.images=) are compared by name. Folders and files of images are compared by
        `sha256`, the hash of their content, because their names do not identify them.
        """
        if has_own_name(self.trained):
            return bool(self.trained["dataset"] == data)
        return sha256 is not None and sha256 == self.trained.get("sha256")

    def unpad(self, images: Tensor) -> Tensor:
        return unpadded(images, self.image_shape)

    def fit(self, images: Tensor) -> Tensor:
        channels, height, width = self.image_shape
        if images.shape[1] != channels:
            raise UserError(
                f"the images have {images.shape[1]} channels, but extractor {self.name} takes "
                f"{channels}: use extractor=inception, or train an extractor for such images "
                "with python scripts/train_extractor.py data=..."
            )
        if images.shape[2:] == (height, width):
            return images
        inner = unpadded(images, self.image_shape)
        border = images.numel() - inner.numel()
        if len(images):
            mean = float(images.sum(dtype=torch.float64) - inner.sum(dtype=torch.float64)) / border
            if mean > MAX_BORDER:
                raise UserError(
                    f"the images are {images.shape[2]}x{images.shape[3]}, and the border "
                    f"around the inner {height}x{width} is not black but {mean:.0f} of 255 on "
                    f"average: {self.name} takes {height}x{width}, with or without a black border"
                )
        return inner


def has_own_name(provenance: Mapping[str, Any]) -> bool:
    """Return True if a data set is identified by its name; a folder of images is not."""
    return provenance.get("source", "full") in NAMED_SOURCES


def check_pixels(images: Tensor) -> None:
    """Raise UserError unless `images` is a uint8 tensor (N, C, H, W)."""
    if not isinstance(images, Tensor):
        raise UserError(f"the images are {type(images).__name__}: expected a tensor of uint8")
    if images.dtype != torch.uint8:
        broken = images.is_floating_point() and not bool(images.isfinite().all())
        raise UserError(
            f"the images are {str(images.dtype).removeprefix('torch.')}"
            f"{' and not all finite' if broken else ''}: expected uint8 pixels from 0 to 255; "
            "for values in [0, 1], multiply by 255, round and convert to uint8"
        )
    if images.ndim != 4:
        raise UserError(f"the images have shape {tuple(images.shape)}: expected (N, C, H, W)")


def unpadded(images: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Cut off the border that data.image_size= added: images (N, C, H, W) -> (N, C, h, w).

    `image_shape` is the shape (C, h, w) without the border. Raises UserError if equal borders on
    opposite sides cannot give the size of the images.
    """
    _, height, width = image_shape
    down, right = images.shape[2] - height, images.shape[3] - width
    if min(down, right) < 0 or down % 2 or right % 2:
        raise UserError(
            f"the images are {images.shape[2]}x{images.shape[3]}: expected {height}x{width}, or "
            f"{height}x{width} with an equal black border on opposite sides, for example "
            f"{height + 4}x{width + 4} (data.image_size={height} or {height + 4})"
        )
    top, left = down // 2, right // 2
    return images[:, :, top : top + height, left : left + width]


RESTORE = "restore it (a shipped file by git or pip), or train another version"


def verified(file: Path, expected: str) -> bytes:
    """Read a file and check its SHA-256; UserError if it differs."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): {RESTORE}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise UserError(
            f"{file} has been altered: its sha256 begins with {actual[:8]}, expected "
            f"{str(expected)[:8]} as in its record; {RESTORE}"
        )
    return content


INCEPTION, DINOV2 = "inception", "dinov2"

"""A whole data set, in memory or mapped from a file."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.data.points.distributions import Distribution
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import UserError

FLOATS = (torch.float32, torch.float16)
"""Types of data that are no pixels."""
_PIECE = 100_000  # images checked at once
MAX_CLASSES = 256
"""Largest number of classes, because the hash of a data set takes a label as one byte."""


@dataclass(frozen=True)
class ImageSet:
    """A whole data set. Images are (N, C, H, W), labels int64 (N,) from 0.

    Images are uint8 pixels, or finite float32 or float16 numbers for data that are no pixels:
    points are (N, 2, 1, 1), latents (N, C, H, W).

    Attributes:
        train_images, train_labels, test_images, test_labels: the training and the test split.
        name: name of the data set.
        source: full, bundled, fake, function, pictures, npz, huggingface or points.
        note: description of the splits' origin, for display.
        sha256: hash of all pixels (one byte each) or numbers (little-endian, of their own type) and
            all labels (one byte each), in the order of the fields; computed if empty. Images with a
            given hash, which may be mapped from a large file, are not searched for NaN.
        classes: names of the classes in the order of the labels; empty if unknown.
        shuffled: True if the training images are in a fixed random order already, so that slices
            of them are random subsets.
        distribution: that from which points were drawn, with its exact density, if it is known.

    Raises:
        UserError: for another type of images, and for values that are not finite.

    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    name: str
    source: str
    note: str
    sha256: str = ""
    classes: tuple[str, ...] = ()
    shuffled: bool = False
    distribution: Distribution | None = None

    def __post_init__(self) -> None:
        """Check the type of the images; check their values and compute the hash if not given."""
        types = self.train_images.dtype, self.test_images.dtype
        if types[0] not in (torch.uint8, *FLOATS) or types[0] != types[1]:
            raise UserError(
                f"data={self.name}: train images of {types[0]} and test images of {types[1]}: "
                "expected torch.uint8 pixels in both, or torch.float32 or torch.float16 numbers"
            )
        if self.sha256:
            return
        digest = hashlib.sha256()
        for split, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if not self.is_pixels:
                self._check_finite(split, images)
            digest.update(images.contiguous().numpy().data)
            digest.update(labels.to(torch.uint8).contiguous().numpy().data)
        object.__setattr__(self, "sha256", digest.hexdigest())

    @property
    def is_pixels(self) -> bool:
        """True for uint8 images, False for numbers."""
        return self.train_images.dtype == torch.uint8

    def for_range(self, value_range: ValueRange) -> "ImageSet":
        """Return this data set; UserError unless data.value_range is one for its type of data."""
        if self.is_pixels == value_range.is_pixels:
            return self
        kind = "uint8 pixels" if self.is_pixels else "numbers and no pixels"
        expected = "zero_one or minus_one_one" if self.is_pixels else "unbounded"
        raise UserError(
            f"data.value_range={value_range.name}: {self.name} has {kind}; expected "
            f"data.value_range={expected}"
        )

    def provenance(self, num_train: int, num_val: int, note: str) -> dict[str, Any]:
        """Describe its origin, with strings and numbers only.

        `num_train` and `num_val` are the images that a training uses; `note` replaces its own.
        """
        classes = {"classes": ", ".join(self.classes)} if self.classes else {}
        return {
            "dataset": self.name,
            "source": self.source,
            "num_train": num_train,
            "num_val": num_val,
            "num_test": len(self.test_labels),
            "sha256": self.sha256,
            "note": note,
            **classes,
        }

    def _check_finite(self, split: str, images: Tensor) -> None:
        """Raise UserError with the first image of a split that holds NaN or infinity."""
        for first in range(0, len(images), _PIECE):
            finite = images[first : first + _PIECE].isfinite().flatten(1).all(1)
            if not bool(finite.all()):
                index = first + int(torch.nonzero(~finite)[0])
                raise UserError(
                    f"data={self.name}: {split} image {index} holds NaN or infinity; expected "
                    "finite numbers: repair the data, or leave out such images"
                )

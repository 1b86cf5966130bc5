"""A whole data set, in memory or mapped from a file."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_CLASSES = 256
"""Largest number of classes, because the hash of a data set takes a label as one byte."""


@dataclass(frozen=True)
class ImageSet:
    """A whole data set. Images are uint8 (N, C, H, W), labels int64 (N,) from 0.

    Attributes:
        train_images, train_labels, test_images, test_labels: the training and the test split.
        name: name of the data set.
        source: full, bundled, fake, function, pictures, npz or huggingface.
        note: description of the splits' origin, for display.
        sha256: hash of all pixels and labels, one byte each, in the order of the fields; computed
            if empty.
        classes: names of the classes in the order of the labels; empty if unknown.
        shuffled: True if the training images are in a fixed random order already, so that slices
            of them are random subsets.

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

    def __post_init__(self) -> None:
        """Compute the hash, unless it is given."""
        if self.sha256:
            return
        digest = hashlib.sha256()
        for part in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(part.to(torch.uint8).contiguous().numpy().data)
        object.__setattr__(self, "sha256", digest.hexdigest())

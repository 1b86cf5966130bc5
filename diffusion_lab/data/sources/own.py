"""User-defined data sets: a function that returns images and labels."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.image_set import FLOATS, MAX_CLASSES, ImageSet
from diffusion_lab.data.loader import check_whole_number
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import height_and_width

ReadImages = Callable[[], Any]
"""() -> ((train images, train labels), (test images, test labels)), NumPy arrays or tensors.

Images are uint8 (N, C, H, W), or (N, H, W) for one channel; labels are whole numbers (N,) from 0,
or None in both splits for images without labels.
With data.value_range=unbounded images are float32 or float16 (N, C, H, W).
"""
_NUM_CLASSES = 10
"""Number of classes without data.num_classes=."""
_EXAMPLE = "data.images={_target_: my_data.images, _partial_: true}"


def own_images(
    read: ReadImages, name: str, shape: tuple[int, int, int], num_classes: int | None = None
) -> tuple[ImageSet, int | None]:
    """Call the function of a user-defined data set and check the returned arrays.

    Returns the images, and the number of classes: None if the function returns no labels.

    Args:
        read: see `ReadImages`.
        name: name of the data set.
        shape: (C, H, W) of an image after padding with black.
        num_classes: labels are 0 to num_classes - 1; None for ten classes or no labels.

    Raises:
        UserError: if the function fails, or does not return images and labels of two splits.

    """
    function = _name(read)
    try:
        (train_images, train_labels), (test_images, test_labels) = read()
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.images: {function} failed ({type(error).__name__}: {reason}): expected "
            "((train images, train labels), (test images, test labels))"
        ) from error
    if train_labels is None and test_labels is None:
        if num_classes is not None:
            raise UserError(
                f"data.images: {function} returned no labels, but data.num_classes={num_classes}: "
                "leave out data.num_classes=, or return labels"
            )
        train_labels, test_labels = (
            np.zeros(len(images), np.int64) for images in (train_images, test_images)
        )
        found = None
    else:
        found = _NUM_CLASSES if num_classes is None else num_classes
    num_classes = found or 1
    train = _checked(function, "train", train_images, train_labels, shape, num_classes)
    test = _checked(function, "test", test_images, test_labels, shape, num_classes)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UserError(
            f"data.images: {function} returned train images {tuple(train[0].shape[1:])} and test "
            f"images {tuple(test[0].shape[1:])}: expected the same shape (C, H, W)"
        )
    images = ImageSet(*train, *test, name=name, source="function", note=f"by {function}")
    return images, found


def _name(function: Any) -> str:
    inner = getattr(function, "func", function)  # of a functools.partial
    return f"{inner.__module__}.{getattr(inner, '__qualname__', type(inner).__name__)}"


def _checked(
    function: str,
    split: str,
    images: Any,
    labels: Any,
    shape: tuple[int, int, int],
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Check a split; return its images uint8 (N, C, H, W) and labels int64 (N,)."""

    def wrong(given: str, expected: str) -> UserError:
        return UserError(f"data.images: {function} returned {split} {given}: expected {expected}")

    if labels is None:
        raise wrong("no labels", "labels in both splits, or None in both for images without labels")
    pixels, classes = torch.as_tensor(images), torch.as_tensor(labels)
    if pixels.dtype not in (torch.uint8, *FLOATS):
        raise wrong(
            f"images of {pixels.dtype}",
            "torch.uint8, values from 0 to 255; or torch.float32 with data.value_range=unbounded "
            "for numbers that are no pixels",
        )
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    channels, height, width = shape
    borders = (
        [wanted - side for wanted, side in zip(shape[1:], pixels.shape[2:], strict=True)]
        if pixels.ndim == 4
        else [-1]
    )
    unpadded = pixels.dtype != torch.uint8 and any(borders)
    bad = any(b < 0 or b % 2 for b in borders) or unpadded
    if pixels.ndim != 4 or pixels.shape[1] != channels or bad:
        size = height if height == width else [height, width]
        raise wrong(
            f"images of shape {tuple(pixels.shape)}",
            f"(N, {channels}, {height}, {width}), or smaller images to pad equally on both sides, "
            f"because data.channels={channels} and data.image_size={size}; change these options to "
            "fit your images",
        )
    if classes.is_floating_point() or classes.is_complex() or classes.ndim != 1:
        raise wrong(f"labels of {classes.dtype} {tuple(classes.shape)}", "whole numbers (N,)")
    if not len(pixels) or len(pixels) != len(classes):
        raise wrong(
            f"{len(pixels)} images and {len(classes)} labels", "the same number of both, at least 1"
        )
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= num_classes:
        raise wrong(
            f"labels from {low} to {high}",
            f"0 to {num_classes - 1}"
            + (f", or data.num_classes={high + 1}" if low >= 0 and high < MAX_CLASSES else ""),
        )
    return pixels.contiguous(), classes.long()


class OwnImages:
    """Source of images that a user-defined function returns, data.images=."""

    def __init__(
        self,
        name: str,
        source: str,
        channels: int,
        image_size: ImageSize | None,
        images: ReadImages,
        num_classes: int | None = None,
    ) -> None:
        if not callable(images):
            raise UserError(
                f"data.images is a {type(images).__name__}: expected a function, for example "
                f"{_EXAMPLE}"
            )
        if image_size is None:
            raise UserError(
                f"data.image_size=null: expected the size of the images of {name}, for example "
                "data.image_size=28"
            )
        if source != "auto":
            raise UserError(
                f"data.source={source} has no effect on {name}: leave out data.source=, or pass it "
                "to your function by data.images.source="
            )
        if num_classes is not None:
            check_whole_number("num_classes", num_classes, least=1)
            if num_classes > MAX_CLASSES:
                raise UserError(f"data.num_classes={num_classes}: expected at most {MAX_CLASSES}")
        self.size, self._num_classes = height_and_width(image_size), num_classes
        self._images: ImageSet | None = None
        """What the function returned, until `read` takes it."""
        self._arguments = (images, name, (channels, *self.size), num_classes)

    @cached_property
    def num_classes(self) -> int | None:
        """data.num_classes=; without it, calls the function to find out whether it has labels."""
        if self._num_classes is not None:
            return self._num_classes
        self._images, found = own_images(*self._arguments)
        return found

    def prepare(self) -> None:
        """Do nothing: the function is called when the images are read."""

    def read(self) -> ImageSet:
        """Call the function, unless `num_classes` did, and check what it returns."""
        images, self._images = self._images, None
        return own_images(*self._arguments)[0] if images is None else images

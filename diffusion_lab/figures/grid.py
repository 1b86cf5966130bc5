"""Many images in one: the grid of pixels that every picture, PNG and animation starts from."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PADDING = 2
"""Pixels between two images of a grid."""


def grid_tensor(images: Tensor, nrow: int = 8) -> Tensor:
    """Lay images out row by row, as TensorBoard's ``add_image`` takes them.

    Args:
        images: (N, C, H, W), C = 1 or 3, in [0, 1]. Values outside are clipped and NaN becomes 0 in
            the result; the tensor itself stays as it is.
        nrow: images in a row. Fewer images than that make a narrower grid.

    Returns:
        (C, rows * (H + 2) + 2, columns * (W + 2) + 2), float32 on the CPU, in [0, 1]. The gaps
        and the empty places of the last row are white.

    Raises:
        ValueError: no image, another shape, another number of channels, or nrow < 1.

    """
    images = _displayable(images)
    if nrow < 1:
        raise ValueError(f"a grid needs at least one image in a row, got nrow={nrow}")
    count, channels, height, width = images.shape
    rows, columns = math.ceil(count / nrow), min(count, nrow)
    # torchvision's make_grid repeats a single channel three times and returns a lone image without
    # its border; here the size and the channels always follow from the images.
    grid = torch.ones(
        channels, rows * (height + PADDING) + PADDING, columns * (width + PADDING) + PADDING
    )
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = PADDING + row * (height + PADDING), PADDING + column * (width + PADDING)
        grid[:, top : top + height, left : left + width] = image
    return grid


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """(C, H, W) in [0, 1] as bytes: (H, W) for one channel, (H, W, 3) for three."""
    rounded = image.mul(255).round().to(torch.uint8)
    array: NDArray[np.uint8] = rounded.permute(1, 2, 0).contiguous().numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def _displayable(images: Tensor) -> Tensor:
    """A checked float32 copy on the CPU in [0, 1]; NaN as 0, so that a diverged run still draws."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be (N, C, H, W) with C = 1 or 3, got shape {tuple(images.shape)}"
        )
    if images.numel() == 0:
        raise ValueError(f"there is no image to draw, got shape {tuple(images.shape)}")
    copy = images.detach().to("cpu", torch.float32)
    return copy.nan_to_num(nan=0.0).clamp(0.0, 1.0)

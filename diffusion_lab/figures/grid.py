"""Grid of images, the basis of all figures, PNGs and animations."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PADDING = 2
"""Pixels between neighbouring images of a grid."""


def grid_tensor(images: Tensor, nrow: int = 8) -> Tensor:
    """Arrange images in a grid, row by row, in the format of TensorBoard's ``add_image``.

    Args:
        images: (N, C, H, W) in [0, 1]. In the result, other values are clipped and NaN becomes 0;
            the tensor itself is not changed. Four channels are RGBA; two, or more than four,
            channels are averaged.
        nrow: images per row; fewer images give a narrower grid.

    Returns:
        (1 or 3, rows * (H + 2) + 2, columns * (W + 2) + 2), float32 on the CPU, in [0, 1]. Gaps and
        empty cells of the last row are white.

    Raises:
        ValueError: for images that are not (N, C, H, W), no images, or nrow < 1.

    """
    images = displayable(images)
    if nrow < 1:
        raise ValueError(f"expected at least one image per row, got nrow={nrow}")
    count, channels, height, width = images.shape
    rows, columns = math.ceil(count / nrow), min(count, nrow)
    # not torchvision's make_grid, which repeats a single channel three times and leaves out the
    # border of a single image
    grid = torch.ones(
        channels, rows * (height + PADDING) + PADDING, columns * (width + PADDING) + PADDING
    )
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = PADDING + row * (height + PADDING), PADDING + column * (width + PADDING)
        grid[:, top : top + height, left : left + width] = image
    return grid


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """Convert an image (C, H, W) in [0, 1] to uint8: (H, W) if C is 1, (H, W, 3) if C is 3."""
    rounded = image.mul(255).round().to(torch.uint8)
    array: NDArray[np.uint8] = rounded.permute(1, 2, 0).contiguous().numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def displayable(images: Tensor) -> Tensor:
    """Convert images (N, C, H, W) for display: to float32 (N, 1 or 3, H, W) on the CPU.

    Values are clipped to [0, 1], and NaN becomes 0 (diverged runs). Four channels are RGBA, shown
    in front of a checkerboard; two, or more than four, channels are averaged to gray. Raises
    ValueError for no images, or another number of dimensions.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images (N, C, H, W), got shape {tuple(images.shape)}")
    if images.numel() == 0:
        raise ValueError(f"expected at least one image, got shape {tuple(images.shape)}")
    copy = images.detach().to("cpu", torch.float32).nan_to_num(nan=0.0).clamp(0.0, 1.0)
    channels = copy.shape[1]
    if channels == 4:
        colour, alpha = copy[:, :3], copy[:, 3:]
        return colour * alpha + _checkerboard(*copy.shape[2:]) * (1 - alpha)
    return copy if channels in (1, 3) else copy.mean(dim=1, keepdim=True)


def _checkerboard(height: int, width: int) -> Tensor:
    """Return a checkerboard (H, W) of light and dark gray squares, an eighth of the longer side."""
    square = max(1, max(height, width) // 8)
    rows, columns = torch.arange(height) // square, torch.arange(width) // square
    return 0.6 + 0.3 * ((rows[:, None] + columns) % 2)

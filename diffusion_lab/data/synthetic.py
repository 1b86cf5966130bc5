"""Synthetic images, for tests and experiments without a data set."""

import math

import torch
from torch import Tensor

NUM_CLASSES = 10
_PIECE = 4096  # images generated at once


def draw_bars(
    num_images: int, image_size: int, channels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Generate bright bars with soft edges near the centre, tilted by 18 k degrees for class k.

    Returns:
        images (num_images, channels, image_size, image_size) uint8 and labels (num_images,) int64,
        with class counts that differ by at most one, in random order.

    """
    labels = torch.randperm(num_images, generator=generator) % NUM_CLASSES
    shift = torch.rand(2, num_images, 1, 1, generator=generator) * 0.4 - 0.2
    brightness = torch.rand(num_images, channels, 1, 1, generator=generator) * 0.4 + 0.6

    # in pieces: the float32 intermediates of all images would need many times their memory
    images = torch.empty(num_images, channels, image_size, image_size, dtype=torch.uint8)
    for start in range(0, num_images, _PIECE):
        piece = slice(start, start + _PIECE)
        angle = (labels[piece] * (math.pi / NUM_CLASSES))[:, None, None]
        images[piece] = _pixels(image_size, shift[:, piece], angle, brightness[piece])
    return images, labels


def _pixels(image_size: int, shift: Tensor, angle: Tensor, brightness: Tensor) -> Tensor:
    """Render (N, C, S, S) from shift (2, N, 1, 1), angle (N, 1, 1) and brightness (N, C, 1, 1)."""
    # coordinates in [-1, 1] for every image size
    line = torch.linspace(-1, 1, image_size)
    x, y = line[None, :] - shift[0], line[:, None] - shift[1]  # (N, 1, size) and (N, size, 1)
    along = (x * angle.cos() + y * angle.sin()).abs()  # (N, size, size)
    across = (y * angle.cos() - x * angle.sin()).abs()
    # 0 outside the bar, 1 inside, with a linear ramp of width 0.1 at the edge
    bar = torch.minimum((0.7 - along), (0.2 - across)).div(0.1).clamp(0, 1)
    return (bar[:, None] * brightness * 255).round().to(torch.uint8)

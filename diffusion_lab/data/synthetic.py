"""Images made up on the spot, for tests and for trying things without any data."""

import math

import torch
from torch import Tensor

NUM_CLASSES = 10
_PIECE = 4096  # images drawn at once


def draw_bars(
    num_images: int, image_size: int, channels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw bright bars with soft edges: class k leans by k * 18 degrees and lies near the centre.

    Returns:
        images (num_images, channels, image_size, image_size) uint8 and labels (num_images,) int64,
        every class equally often (up to one), in random order.

    """
    labels = torch.randperm(num_images, generator=generator) % NUM_CLASSES
    shift = torch.rand(2, num_images, 1, 1, generator=generator) * 0.4 - 0.2
    brightness = torch.rand(num_images, channels, 1, 1, generator=generator) * 0.4 + 0.6

    # a piece at a time: in float32 a million images would take several times four bytes a pixel
    images = torch.empty(num_images, channels, image_size, image_size, dtype=torch.uint8)
    for start in range(0, num_images, _PIECE):
        piece = slice(start, start + _PIECE)
        angle = (labels[piece] * (math.pi / NUM_CLASSES))[:, None, None]
        images[piece] = _pixels(image_size, shift[:, piece], angle, brightness[piece])
    return images, labels


def _pixels(image_size: int, shift: Tensor, angle: Tensor, brightness: Tensor) -> Tensor:
    """(N, channels, size, size) of shift (2, N, 1, 1), angle (N, 1, 1), brightness (N, C, 1, 1)."""
    # Coordinates in [-1, 1], whatever the size: (1, image_size) and (image_size, 1).
    line = torch.linspace(-1, 1, image_size)
    x, y = line[None, :] - shift[0], line[:, None] - shift[1]  # (N, 1, size) and (N, size, 1)
    along = (x * angle.cos() + y * angle.sin()).abs()  # (N, size, size)
    across = (y * angle.cos() - x * angle.sin()).abs()
    # How far inside the bar a point is, in bar-edge widths: 0 outside, 1 inside, a ramp between.
    bar = torch.minimum((0.7 - along), (0.2 - across)).div(0.1).clamp(0, 1)
    return (bar[:, None] * brightness * 255).round().to(torch.uint8)

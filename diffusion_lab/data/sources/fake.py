"""Synthetic images, for tests and experiments without a data set."""

import math

import torch
from torch import Tensor

from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.loader import check_whole_number
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import height_and_width

NUM_CLASSES = 10
_PIECE = 4096  # images generated at once


def fake_images(
    num_images: int = 10_000,
    num_test_images: int = 1_000,
    image_size: ImageSize = 28,
    channels: int = 1,
    seed: int = 0,
) -> ImageSet:
    """Generate a learnable data set of ten classes, fixed by the seed; see ``draw_bars``."""
    generator = torch.Generator().manual_seed(seed)
    return ImageSet(
        *draw_bars(num_images, image_size, channels, generator),
        *draw_bars(num_test_images, image_size, channels, generator),
        name="fake",
        source="fake",
        note="synthetic bars at ten angles, not a real data set",
    )


def draw_bars(
    num_images: int, image_size: ImageSize, channels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Generate bright bars with soft edges near the centre, tilted by 18 k degrees for class k.

    Returns:
        images (num_images, channels, H, W) uint8 and labels (num_images,) int64,
        with class counts that differ by at most one, in random order.

    """
    size = height_and_width(image_size)
    labels = torch.randperm(num_images, generator=generator) % NUM_CLASSES
    shift = torch.rand(2, num_images, 1, 1, generator=generator) * 0.4 - 0.2
    brightness = torch.rand(num_images, channels, 1, 1, generator=generator) * 0.4 + 0.6

    # in pieces: the float32 intermediates of all images would need many times their memory
    images = torch.empty(num_images, channels, *size, dtype=torch.uint8)
    for start in range(0, num_images, _PIECE):
        piece = slice(start, start + _PIECE)
        angle = (labels[piece] * (math.pi / NUM_CLASSES))[:, None, None]
        images[piece] = _pixels(size, shift[:, piece], angle, brightness[piece])
    return images, labels


def _pixels(size: tuple[int, int], shift: Tensor, angle: Tensor, brightness: Tensor) -> Tensor:
    """Render (N, C, H, W) from shift (2, N, 1, 1), angle (N, 1, 1) and brightness (N, C, 1, 1)."""
    # coordinates in [-1, 1] for every image size
    rows, columns = (torch.linspace(-1, 1, side) for side in size)
    x, y = columns[None, :] - shift[0], rows[:, None] - shift[1]  # (N, 1, W) and (N, H, 1)
    along = (x * angle.cos() + y * angle.sin()).abs()  # (N, H, W)
    across = (y * angle.cos() - x * angle.sin()).abs()
    # 0 outside the bar, 1 inside, with a linear ramp of width 0.1 at the edge
    bar = torch.minimum((0.7 - along), (0.2 - across)).div(0.1).clamp(0, 1)
    return (bar[:, None] * brightness * 255).round().to(torch.uint8)


class FakeImages:
    """Source of the synthetic images of data=fake."""

    num_classes = NUM_CLASSES

    def __init__(
        self,
        channels: int,
        image_size: ImageSize,
        num_images: int = 10_000,
        num_test_images: int = 1_000,
    ) -> None:
        check_whole_number("num_images", num_images, least=1)
        check_whole_number("num_test_images", num_test_images, least=1)
        self.size = height_and_width(image_size)
        if min(self.size) < 4:
            raise UserError(
                f"data.image_size={image_size}: expected at least 4, for example data.image_size=28"
            )
        self._arguments = (num_images, num_test_images, self.size, channels)

    def prepare(self) -> None:
        """Do nothing: the images are generated when they are read."""

    def read(self) -> ImageSet:
        """Generate the images."""
        return fake_images(*self._arguments)

"""Data augmentation: small random affine transformations, or crops and mirror images."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.errors import UserError

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Random transformation of float images (N, C, H, W) in [0, 1], with a CPU generator."""


@dataclass(frozen=True)
class Affine:
    """Random shift, rotation and scaling per image, uniform within limits, filled with black.

    Args:
        shift: largest shift along each axis, in pixels.
        rotation: largest rotation in either direction, in degrees.
        scale: largest relative change of size: 0.1 for factors from 0.9 to 1.1.

    Raises:
        UserError: for a number out of range.

    """

    shift: float = 2.0
    rotation: float = 10.0
    scale: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.shift < math.inf:
            raise UserError(
                f"shift={self.shift}: expected a number of pixels, at least 0, for example shift=2"
            )
        if not 0 <= self.rotation <= 180:
            raise UserError(f"rotation={self.rotation}: expected degrees from 0 to 180")
        if not 0 <= self.scale < 1:
            raise UserError(
                f"scale={self.scale}: expected at least 0 and less than 1, for example scale=0.1"
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Shift, rotate and scale float images (N, C, H, W) at random; black has to be 0.

        `generator` is on the CPU, the images are on any device.
        """
        n, _, height, width = images.shape
        x, y, turn, size = torch.rand(4, n, generator=generator).mul(2).sub(1).to(images.device)
        angle = turn * math.radians(self.rotation)
        # pixel p of the result is read at matrix @ p, so enlarging divides by the factor
        zoom = 1 / (1 + size * self.scale)
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        # grid_sample's coordinates run from -1 to 1 over each side
        ratio = height / width
        matrix = torch.stack(
            [
                torch.stack([cos, -sin * ratio, x * self.shift * 2 / width], dim=1),
                torch.stack([sin / ratio, cos, y * self.shift * 2 / height], dim=1),
            ],
            dim=1,
        )
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


@dataclass(frozen=True)
class CropAndFlip:
    """Random crop of the image padded by reflection, mirrored left to right half of the time.

    Args:
        shift: largest shift along each axis, in whole pixels.
        flip: False for no mirroring, for example of digits, which would become other signs.

    Raises:
        UserError: for a shift that is not a whole number of at least 0.

    """

    shift: int = 2
    flip: bool = True

    def __post_init__(self) -> None:
        if not float(self.shift).is_integer() or self.shift < 0:
            raise UserError(
                f"shift={self.shift}: expected a whole number of pixels, at least 0, for example "
                "shift=2"
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Transform float images (N, C, H, W) with a CPU generator.

        Raises UserError unless height and width of the images are larger than `shift`.
        """
        n, _, height, width = images.shape
        border = int(self.shift)
        if border >= min(height, width):
            raise UserError(
                f"shift={self.shift}: expected less than the images' {height}x{width} pixels"
            )
        down, right = torch.randint(0, 2 * border + 1, (2, n, 1), generator=generator)
        mirrored = torch.rand(n, 1, generator=generator) < (0.5 if self.flip else 0)
        rows, columns = torch.arange(height) + down, torch.arange(width)
        columns = torch.where(mirrored, width - 1 - columns, columns) + right
        padded = F.pad(images, (border,) * 4, mode="reflect").movedim(1, 3)
        every = torch.arange(n)[:, None, None]
        where = every, rows[:, :, None], columns[:, None, :]  # (N, H, W) after broadcasting
        return padded[tuple(index.to(images.device) for index in where)].movedim(3, 1)

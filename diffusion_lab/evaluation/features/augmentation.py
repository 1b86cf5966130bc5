"""Data augmentation with small random affine transformations."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.errors import UserError


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
            raise UserError(f"shift={self.shift}: expected pixels, at least 0, for example shift=2")
        if not 0 <= self.rotation <= 180:
            raise UserError(f"rotation={self.rotation}: expected degrees from 0 to 180")
        if not 0 <= self.scale < 1:
            raise UserError(
                f"scale={self.scale}: expected at least 0 and less than 1, for example scale=0.1"
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Transform float images (N, C, H, W) in which black is 0, with a CPU generator."""
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

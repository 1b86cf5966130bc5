"""Images moved, turned and scaled a little, each in its own way."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.errors import UserError


@dataclass(frozen=True)
class Affine:
    """How far each image of a batch is moved at most; uniformly drawn, black comes in at the edges.

    Args:
        shift: in pixels, along each axis.
        rotation: in degrees, either way.
        scale: 0.1 for a size from 0.9 to 1.1 of its own.

    Raises:
        UserError: for a number out of range.

    """

    shift: float = 2.0
    rotation: float = 10.0
    scale: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.shift < math.inf:
            raise UserError(f"shift={self.shift}: expected pixels, 0 or more, shift=2")
        if not 0 <= self.rotation <= 180:
            raise UserError(f"rotation={self.rotation}: expected degrees from 0 to 180")
        if not 0 <= self.scale < 1:
            raise UserError(f"scale={self.scale}: expected at least 0 and less than 1, scale=0.1")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images (N, C, H, W), float, black 0, as many; the generator is one of the CPU."""
        n, _, height, width = images.shape
        x, y, turn, size = torch.rand(4, n, generator=generator).mul(2).sub(1).to(images.device)
        angle = turn * math.radians(self.rotation)
        # a point of the result is looked up at matrix @ point: where it is enlarged, nearer by
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

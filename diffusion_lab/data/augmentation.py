"""Non-leaky augmentation: transform training images, with the transformation as a condition.

The network gets numbers that describe the transformation of each image. Zeros describe an unchanged
image. Samples are generated with zeros and therefore show no transformation.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.errors import UserError

SCALE = 0.2
"""Standard deviation of isotropic and of anisotropic scaling, in octaves (factors of two)."""
TRANSLATION = 1 / 8
"""Standard deviation of the translation, as a fraction of the image's width or height."""


class Augmentation(ABC):
    """Random transformation of images, and the numbers that describe it to the network."""

    num_values: int
    """Number of values that describe the transformation of an image; zeros describe no change."""

    @abstractmethod
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Transform float images (B, C, H, W); return them and the values (B, num_values).

        Random numbers are drawn from the global generator of the images' device, whose state is
        saved in checkpoints.
        """


class EDMAugmentation(Augmentation):
    """Random affine transformations of EDM. Karras et al. 2022, arXiv 2206.00364, appendix F.2.

    The transformations are, in this order: x-flip (if a0 is 1); y-flip (if a1 is 1); scaling by
    2^(0.2 a2); rotation by the angle a3; scaling by 2^(0.2 a5) along the direction a4 and by
    2^(-0.2 a5) across this direction; translation by (a6 W / 8, a7 H / 8) pixels. The angles a3 and
    a4 are uniform in [-pi, pi]; a2, a5, a6 and a7 are standard normal. The nine values for the
    network are a0, a1, a2, cos a3 - 1, sin a3, a5 cos a4, a5 sin a4, a6, a7.

    A flip only reorders pixels. The other transformations are done in one bicubic interpolation
    with reflection at the border, where the paper uses wavelet filters. The result is clamped to
    the smallest and largest value of each channel of the image, because bicubic interpolation
    overshoots.

    Args:
        probability: probability of each transformation except the x-flip; the paper uses 0.12 for
            CIFAR-10 and 0.15 for faces of 64 x 64 pixels.
        x_flip: True to mirror each image left to right with probability 1/2.

    Raises:
        UserError: for a probability out of range.

    """

    num_values = 9

    def __init__(self, probability: float = 0.12, x_flip: bool = True) -> None:
        if not 0 <= probability <= 1:
            raise UserError(f"augment.probability={probability}: expected a number from 0 to 1")
        self.probability, self.x_flip = probability, x_flip

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        parameters = self.draw(len(images), images.device)
        return transform(images, parameters), values_of(parameters)

    def draw(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw the parameters a0 to a7 of `count` images; return them as float32 (count, 8)."""
        # y-flip, scaling, rotation, anisotropic scaling, translation
        enabled = torch.rand(count, 5, device=device) < self.probability
        flips = torch.randint(2, (count, 2), device=device)
        angles = (torch.rand(count, 2, device=device) * 2 - 1) * math.pi
        scale, anisotropy, x, y = torch.randn(count, 4, device=device).unbind(1)
        on = enabled.float().unbind(1)
        return torch.stack(
            [
                flips[:, 0] * float(self.x_flip),
                flips[:, 1] * on[0],
                scale * on[1],
                angles[:, 0] * on[2],
                angles[:, 1] * on[3],
                anisotropy * on[3],
                x * on[4],
                y * on[4],
            ],
            dim=1,
        )


def values_of(parameters: Tensor) -> Tensor:
    """Map parameters a0 to a7, (B, 8), to the nine values that the network gets, (B, 9)."""
    a0, a1, a2, a3, a4, a5, a6, a7 = parameters.unbind(1)
    return torch.stack(
        [a0, a1, a2, a3.cos() - 1, a3.sin(), a5 * a4.cos(), a5 * a4.sin(), a6, a7], dim=1
    )


def transform(images: Tensor, parameters: Tensor) -> Tensor:
    """Transform float images (B, C, H, W) by parameters a0 to a7, (B, 8)."""
    flip = parameters[:, :2, None, None, None] != 0
    images = torch.where(flip[:, 0], images.flip(3), images)
    images = torch.where(flip[:, 1], images.flip(2), images)
    moves = (parameters[:, [2, 3, 5, 6, 7]] != 0).any(1)[:, None, None, None]
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    with torch.autocast(images.device.type, enabled=False):  # it would round the coordinates
        inverse = _inverse(parameters, images.shape)
        grid = F.affine_grid(inverse, list(images.shape), align_corners=False)
        moved = F.grid_sample(wide, grid.to(wide.dtype), "bicubic", "reflection", False)
    moved = moved.to(images.dtype)
    moved = moved.clamp(images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True))
    return torch.where(moves, moved, images)


def _inverse(parameters: Tensor, shape: torch.Size) -> Tensor:
    """Return the inverse of all transformations except the flips, (B, 2, 3), for affine_grid.

    Each matrix maps the coordinates (x, y) of a pixel in the result to those in the image. The y
    axis points down.
    """
    height, width = shape[2:]
    _, _, a2, a3, a4, a5, a6, a7 = parameters.unbind(1)
    along = torch.exp2(-SCALE * a5)
    stretch = _rotation(a4) @ torch.diag_embed(torch.stack([along, 1 / along], 1)) @ _rotation(-a4)
    matrix = torch.exp2(-SCALE * a2)[:, None, None] * _rotation(-a3) @ stretch  # in pixels
    shift = torch.stack([a6 * width, a7 * height], 1) * TRANSLATION
    offset = -(matrix @ shift[:, :, None])
    half = torch.tensor([width, height], device=parameters.device) / 2  # affine_grid's unit
    return torch.cat([matrix * half, offset], dim=2) / half[:, None]


def _rotation(angle: Tensor) -> Tensor:
    """Return rotation matrices (B, 2, 2) by angles (B,) in radians."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)

"""Published images in a larger frame."""

import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.data.loader import check_whole_number
from diffusion_lab.data.published import SIDE
from diffusion_lab.errors import UserError


def check_padding(image_size: int | None) -> None:
    """Raise UserError for a size that even borders do not reach; None is the images' own."""
    if image_size is None:
        return
    check_whole_number("image_size", image_size, least=1)
    if image_size < SIDE or (image_size - SIDE) % 2:
        raise UserError(
            f"image_size is {image_size}: expected {SIDE} or an even number above it, because "
            "images are padded evenly on all sides, for example data.image_size=32"
        )


def padded(images: Tensor, image_size: int) -> Tensor:
    """From (N, C, H, W) to (N, C, image_size, image_size), black around."""
    border = (image_size - images.shape[-1]) // 2
    return F.pad(images, (border,) * 4) if border else images

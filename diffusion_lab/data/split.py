"""Fixed split into training and validation images, the same for every seed; padding."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.data.loader import check_whole_number
from diffusion_lab.data.mnist.files import SIDE
from diffusion_lab.errors import UserError

SPLIT_SEED = 0


def split_order(num_images: int) -> Tensor:
    """Return the fixed order (int64) of the training images, validation images first."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    return torch.randperm(num_images, generator=generator)


def split_indices(num_images: int, val_size: int, train_size: int | None) -> tuple[Tensor, Tensor]:
    """Return the indices (int64) of the validation and of the training images.

    Both are slices of one fixed order, validation first. The images of a smaller train_size are
    therefore a subset of those of a larger one. Raises UserError for sizes that are too large.
    """
    if val_size >= num_images:
        raise UserError(
            f"val_size is {val_size}, but there are only {num_images} training images: "
            f"expected less, for example data.val_size={num_images // 10}"
        )
    left = num_images - val_size
    if train_size is not None and train_size > left:
        raise UserError(
            f"train_size is {train_size}, but {left} images are left after the "
            f"validation split: expected at most {left}, for example data.train_size={left}"
        )
    order = split_order(num_images)
    count = left if train_size is None else train_size
    return order[:val_size], order[val_size : val_size + count]


def check_padding(image_size: int | None) -> None:
    """Raise UserError for a size that even padding cannot reach; None is the original size."""
    if image_size is None:
        return
    check_whole_number("image_size", image_size, least=1)
    if image_size < SIDE or (image_size - SIDE) % 2:
        raise UserError(
            f"image_size is {image_size}: expected {SIDE} or an even number above it, because "
            "images are padded evenly on all sides, for example data.image_size=32"
        )


def padded(images: Tensor, image_size: int) -> Tensor:
    """Pad (N, C, H, W) evenly with black to (N, C, image_size, image_size)."""
    border = (image_size - images.shape[-1]) // 2
    return F.pad(images, (border,) * 4) if border else images

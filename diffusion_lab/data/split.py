"""Fixed split into training and validation images, equal for every seed; padding."""

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
            f"data.val_size={val_size}: expected less than {num_images}, the number of training "
            f"images, for example data.val_size={num_images // 10}"
        )
    left = num_images - val_size
    if train_size is not None and train_size > left:
        raise UserError(
            f"data.train_size={train_size}: expected at most {left}, the number of images that "
            f"data.val_size={val_size} leaves for training"
        )
    order = split_order(num_images)
    count = left if train_size is None else train_size
    return order[:val_size], order[val_size : val_size + count]


def check_padding(image_size: int | None) -> None:
    """Raise UserError unless equal padding on all sides gives this size; None is the original."""
    if image_size is None:
        return
    check_whole_number("image_size", image_size, least=1)
    if image_size < SIDE or (image_size - SIDE) % 2:
        raise UserError(
            f"data.image_size={image_size}: expected {SIDE} or a larger even number, because the "
            "padding is equal on all sides, for example data.image_size=32"
        )


def padded(images: Tensor, image_size: int) -> Tensor:
    """Pad (N, C, H, W) with black, equally on all sides -> (N, C, image_size, image_size)."""
    border = (image_size - images.shape[-1]) // 2
    return F.pad(images, (border,) * 4) if border else images

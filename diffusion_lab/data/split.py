"""Split into training and validation images, the same for every seed, and padding of images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.data.shape import ImageSize
from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import height_and_width

SPLIT_SEED = 0


def split_order(num_images: int) -> Tensor:
    """Return the fixed random order, int64 (num_images,), that begins with validation images."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    return torch.randperm(num_images, generator=generator)


def first_indices(num_images: int, count: int, shuffled: bool = False) -> Tensor | slice:
    """Return the first `count` of the fixed order: validation images of a run, then training ones.

    Int64 indices, or a slice of images that are shuffled already (`ImageSet.shuffled`).
    """
    return slice(count) if shuffled else split_order(num_images)[:count]


def split_indices(
    num_images: int, val_size: int, train_size: int | None, shuffled: bool = False
) -> tuple[Tensor | slice, Tensor | slice]:
    """Return the indices (int64) of the validation images and of the training images.

    The two sets follow one another in one fixed order, so the images of a smaller train_size are a
    subset of those of a larger one. If the images are `shuffled` already, slices are returned.
    Raises UserError for sizes that are too large.
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
    count = left if train_size is None else train_size
    if shuffled:  # parts of a mapped file, which stay on the disk
        return slice(val_size), slice(val_size, val_size + count)
    order = split_order(num_images)
    return order[:val_size], order[val_size : val_size + count]


def check_pairs(count: int, val_size: int, train_size: int | None) -> None:
    """Raise UserError if `count` reflow pairs leave none to train on, or if train_size is set."""
    if train_size is not None:
        raise UserError(
            f"data.train_size={train_size}: expected null with teacher.run=, "
            "because teacher.num_pairs= sets the number of pairs"
        )
    if count <= val_size:
        raise UserError(
            f"data.val_size={val_size}: expected less than {count}, the number of pairs; "
            "lower data.val_size=, or raise teacher.num_pairs="
        )


def check_padding(image_size: ImageSize, original: int) -> None:
    """Raise UserError unless padding square images on all sides equally can give image_size."""
    for side in height_and_width(image_size):
        if side < original or (side - original) % 2:
            raise UserError(
                f"data.image_size={image_size}: expected {original} or a larger even number, "
                "because the padding is equal on all sides, for example "
                f"data.image_size={original + original % 2 + 4}"
            )


def padded(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad (N, C, H, W) with black, equally on opposite sides, to `size` (height, width)."""
    rows, columns = ((side - now) // 2 for side, now in zip(size, images.shape[2:], strict=True))
    return F.pad(images, (columns, columns, rows, rows)) if rows or columns else images

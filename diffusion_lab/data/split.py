"""Which training images are held out: the same ones in every run, whatever its own seed."""

import torch
from torch import Tensor

from diffusion_lab.errors import UserError

SPLIT_SEED = 0


def split_order(num_images: int) -> Tensor:
    """Return the one fixed order (int64) of the training images; held out are the first of it."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    return torch.randperm(num_images, generator=generator)


def split_indices(num_images: int, val_size: int, train_size: int | None) -> tuple[Tensor, Tensor]:
    """Return which images of the official training split are for validation, and for training.

    One fixed order: validation takes its beginning, training what follows, so that a smaller
    train_size is a subset of a larger one.
    """
    if val_size >= num_images:
        raise UserError(
            f"val_size is {val_size}, but there are only {num_images} training images: "
            f"expected less, for example data.val_size={num_images // 10}"
        )
    left = num_images - val_size
    if train_size is not None and train_size > left:
        raise UserError(
            f"train_size is {train_size}, but after validation {left} images are left: "
            f"expected at most that, for example data.train_size={left}"
        )
    order = split_order(num_images)
    count = left if train_size is None else train_size
    return order[:val_size], order[val_size : val_size + count]

"""Which training images are held out: the same ones in every run, whatever its own seed."""

import torch
from torch import Tensor

SPLIT_SEED = 0


def split_order(num_images: int) -> Tensor:
    """Return the one fixed order (int64) of the training images; held out are the first of it."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    return torch.randperm(num_images, generator=generator)

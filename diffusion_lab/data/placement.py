"""Placement of the training images: the GPU's memory or the host's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lab.errors import UserError

MAX_FRACTION = 0.25
"""Largest fraction of a GPU's free memory that on_device=auto fills with images."""


def check_on_device(on_device: bool | str) -> None:
    """Raise UserError unless data.on_device is auto, true or false."""
    if on_device != "auto" and not isinstance(on_device, bool):
        raise UserError(f"data.on_device={on_device}: expected auto, true or false")


def keep(
    tensors: Sequence[Tensor], device: torch.device, on_device: bool | str
) -> tuple[list[Tensor], bool]:
    """Move the training images to `device` if `belongs_on` returns True.

    Returns the tensors, and True if batches should be in page-locked memory, for asynchronous
    copies to a CUDA device. Raises UserError for on_device=true if a CUDA device has too little
    free memory.
    """
    moved = belongs_on(device, tensors, on_device)
    kept = [tensor.to(device) for tensor in tensors] if moved else list(tensors)
    return kept, device.type == "cuda" and not moved


def belongs_on(device: torch.device, tensors: Sequence[Tensor], on_device: bool | str) -> bool:
    """Return True if the training images should be kept in the memory of `device`.

    With on_device=auto this is so if they need at most MAX_FRACTION of a CUDA device's free memory.
    Raises UserError for on_device=true if a CUDA device has too little free memory.
    """
    if device.type == "cpu" or on_device is False:
        return False
    if device.type != "cuda":  # free memory is unknown
        return on_device is True
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    free = free_memory(device)
    if on_device is True and size > free:
        raise UserError(
            f"data.on_device=true: the images need {_mib(size)}, but {device} has {_mib(free)} "
            "free; type data.on_device=auto, which then keeps them in the host's memory"
        )
    return on_device is True or size <= MAX_FRACTION * free


def free_memory(device: torch.device) -> int:
    """Return the free memory of a CUDA device in bytes."""
    return torch.cuda.mem_get_info(device)[0]


def select(tensor: Tensor, indices: Tensor, pinned: bool = False) -> Tensor:
    """Return the entries (B, ...) of a tensor (N, ...) at indices (B,), on the tensor's device.

    With `pinned` the result is in page-locked memory, for an asynchronous copy to a GPU.
    """
    if not pinned:
        return tensor.index_select(0, indices)
    out = torch.empty(len(indices), *tensor.shape[1:], dtype=tensor.dtype, pin_memory=True)
    return torch.index_select(tensor, 0, indices, out=out)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"

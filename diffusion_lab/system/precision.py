"""Choice of the numerical precision: float32, or bfloat16 if the device supports it."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from diffusion_lab.errors import UserError
from diffusion_lab.system.device import find_device

if TYPE_CHECKING:  # sampling does not need omegaconf
    from omegaconf import DictConfig

AUTO = "auto"
FULL, NARROW = "32-true", "bf16-mixed"


def computes_bfloat16(device: torch.device) -> bool:
    """Return True if the device multiplies bfloat16 in hardware, which is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # private, but the only test: mkldnn's also reports emulated bfloat16
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def chosen_precision(precision: str, device: torch.device) -> str:
    """Return `precision`, with auto replaced by the fastest precision of the device.

    This is bf16-mixed if the device multiplies bfloat16 in hardware, else 32-true.
    """
    if precision != AUTO:
        return precision
    return NARROW if computes_bfloat16(device) else FULL


def forks(strategy: object) -> bool:
    """Return True if a Lightning strategy forks processes, so no GPU may be initialized earlier."""
    return any(word in str(strategy) for word in ("fork", "notebook"))


def resolve_precision(cfg: "DictConfig") -> "DictConfig":
    """Return the configuration with trainer.precision=auto replaced by bf16-mixed or 32-true.

    The run's record then names the precision that was used. With a strategy that forks, a GPU gets
    32-true, because a query would initialize the GPU, which the forked processes could not use.
    """
    if cfg.trainer.precision != AUTO:
        return cfg
    will_fork = forks(cfg.trainer.strategy)
    try:
        device = find_device(cfg.trainer.accelerator)
        precision = FULL if will_fork and device.type != "cpu" else chosen_precision(AUTO, device)
    except UserError:
        precision = FULL  # the trainer will reject the accelerator
    cfg = cfg.copy()  # the caller's copy keeps the given value
    cfg.trainer.precision = precision
    return cfg


def check_precision(precision: str) -> None:
    """Raise UserError for a precision that sampling does not support."""
    if precision not in (AUTO, FULL, NARROW):
        raise UserError(f"precision={precision}: expected {FULL}, {NARROW} or {AUTO}")


def drawing_in(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the autocast context in which the network is evaluated at a precision.

    The sampler's own arithmetic stays in float32. Raises UserError for an unknown precision.
    """
    check_precision(precision)
    narrow = chosen_precision(precision, device) == NARROW
    return torch.autocast(device.type, torch.bfloat16, enabled=narrow)

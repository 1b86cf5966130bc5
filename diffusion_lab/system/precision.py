"""Which precision a processor is quick in."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from diffusion_lab.errors import UserError
from diffusion_lab.system.device import find_device

if TYPE_CHECKING:  # whoever only draws has no need of it
    from omegaconf import DictConfig

AUTO = "auto"
FULL, NARROW = "32-true", "bf16-mixed"


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 numbers itself; elsewhere float32 is as quick."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # private, but all there is: what mkldnn says is true of emulation too
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def chosen_precision(precision: str, device: torch.device) -> str:
    """What auto stands for on a device; anything else is left as it is."""
    if precision != AUTO:
        return precision
    return NARROW if computes_bfloat16(device) else FULL


def forks(strategy: object) -> bool:
    """Tell if a strategy forks its processes, which must not touch a GPU before the fork."""
    return any(word in str(strategy) for word in ("fork", "notebook"))


def resolve_precision(cfg: "DictConfig") -> "DictConfig":
    """A configuration with trainer.precision=auto decided, so that the record says what it was.

    Processes that will be forked are not looked at on a GPU, which they could not use afterwards:
    32-true.
    """
    if cfg.trainer.precision != AUTO:
        return cfg
    will_fork = forks(cfg.trainer.strategy)
    try:
        device = find_device(cfg.trainer.accelerator)
        precision = FULL if will_fork and device.type != "cpu" else chosen_precision(AUTO, device)
    except UserError:
        precision = FULL  # the trainer will refuse the accelerator
    cfg = cfg.copy()  # the caller's keeps what was typed
    cfg.trainer.precision = precision
    return cfg


def check_precision(precision: str) -> None:
    """Raise UserError for one that nothing is drawn in."""
    if precision not in (AUTO, FULL, NARROW):
        raise UserError(f"precision={precision}: expected {FULL}, {NARROW} or {AUTO}")


def drawing_in(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Around drawing: the network in this precision, the sampler's arithmetic in float32."""
    check_precision(precision)
    narrow = chosen_precision(precision, device) == NARROW
    return torch.autocast(device.type, torch.bfloat16, enabled=narrow)

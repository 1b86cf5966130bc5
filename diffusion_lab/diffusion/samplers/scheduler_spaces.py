"""Scaling of x in diffusers' schedulers, and the model output that they expect.

In every scheduler x = alpha x0 + sigma noise, but families of schedulers differ in alpha and sigma.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Level = tuple[Tensor, Tensor]
"""alpha () and sigma () of x = alpha x0 + sigma noise."""


@dataclass(frozen=True)
class Space:
    """Conventions of a family of schedulers: the noise level of x and the expected model output."""

    prediction_type: str | None
    """The scheduler's prediction_type; None if it has no such option."""
    level: Callable[[Any, int, Tensor], Level]
    """(scheduler, step, timestep) -> alpha () and sigma () of the scheduler's x."""
    output: Callable[[Tensor, Tensor, Level, Any], Tensor]
    """(x0_hat, x, level, scheduler) -> the model output that corresponds to x0_hat."""
    vp: bool = False
    """True for schedulers made from betas, which have an option timestep_spacing."""


def table_ratio(scheduler: Any, timestep: Tensor) -> Tensor:
    """Return the ratio sigma / alpha at an integer timestep of the scheduler's table. () -> ()."""
    alpha_bar = scheduler.alphas_cumprod[timestep.long()]
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def is_in_table(scheduler: Any, step: int, timestep: Tensor) -> bool:
    """Return True if the noise level of a step is that of an integer timestep.

    Sigmas such as those of Karras et al. lie between the noise levels of integer timesteps. Some
    schedulers round the timestep that they report for such a sigma, so the sigma is compared too.
    """
    if timestep.item() != int(timestep.item()):
        return False
    if not hasattr(scheduler, "sigmas"):
        return True
    return math.isclose(scheduler.sigmas[step], table_ratio(scheduler, timestep), rel_tol=1e-5)


def at_sigma(scheduler: Any, sigma: Tensor) -> Level:
    """Return alpha () and sigma () of x for an entry () of a VP scheduler's array `sigmas`.

    The entry is the ratio sigma / alpha, or sigma itself with use_flow_sigmas=True.
    """
    if scheduler.config.use_flow_sigmas:
        return 1 - sigma, sigma
    alpha = (1 + sigma**2) ** -0.5
    return alpha, sigma * alpha


def _vp_level(scheduler: Any, step: int, timestep: Tensor) -> Level:
    if is_in_table(scheduler, step, timestep):
        alpha_bar = scheduler.alphas_cumprod[timestep.long()]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return at_sigma(scheduler, scheduler.sigmas[step])


def _ve_level(scheduler: Any, step: int, timestep: Tensor) -> Level:
    sigma = scheduler.sigmas[step]
    return torch.ones_like(sigma), sigma


def _flow_level(scheduler: Any, step: int, timestep: Tensor) -> Level:
    sigma = scheduler.sigmas[step]
    return 1 - sigma, sigma


def _edm_output(denoised: Tensor, x: Tensor, level: Level, scheduler: Any) -> Tensor:
    sigma, sigma_data = level[1], scheduler.config.sigma_data
    variance = sigma**2 + sigma_data**2
    return (denoised - sigma_data**2 / variance * x) / (sigma * sigma_data * variance**-0.5)


VP = Space("sample", _vp_level, lambda denoised, x, level, scheduler: denoised, vp=True)
# prediction_type "epsilon", because not every scheduler of this family takes "sample"
KARRAS = Space("epsilon", _ve_level, lambda d, x, level, scheduler: (x - d) / level[1], vp=True)
FLOW = Space(None, _flow_level, lambda d, x, level, scheduler: (x - d) / level[1])
EDM = Space("epsilon", _ve_level, _edm_output)

SPACES = {
    "DDPMScheduler": VP,
    "DDIMScheduler": VP,
    "DPMSolverMultistepScheduler": VP,
    "UniPCMultistepScheduler": VP,
    "DEISMultistepScheduler": VP,
    "EulerDiscreteScheduler": KARRAS,
    "EulerAncestralDiscreteScheduler": KARRAS,
    "HeunDiscreteScheduler": KARRAS,
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "EDMEulerScheduler": EDM,
    "EDMDPMSolverMultistepScheduler": EDM,
}

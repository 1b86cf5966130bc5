"""Denoising diffusion probabilistic models: DDPMScheduler with UNet2DModel."""

from typing import Any

from torch import nn

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.prediction import Epsilon, Prediction
from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.errors import UserError
from diffusion_lab.modules.diffusion import DiffusionModule
from diffusion_lab.networks.unet2d import UNet2D


class DDPMModule(DiffusionModule):
    """`DDPMModule()` is Ho et al. 2020: UNet2DModel, linear betas, 1,000 steps, epsilon.

    Any part can be given in its place, as long as the path comes from a scheduler's betas.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        noise_schedule: NoiseSchedule | None = None,
        prediction: Prediction | None = None,
        **training: Any,
    ) -> None:
        noise_schedule = noise_schedule or VPSchedule()
        if not isinstance(noise_schedule, VPSchedule):
            raise UserError(
                f"model=ddpm goes by betas, {type(noise_schedule).__name__} has none: choose "
                "noise_schedule=linear, scaled_linear, cosine, sigmoid, sigmoid_jabri or zero_snr, "
                "or another model"
            )
        super().__init__(
            network=network or UNet2D(),
            noise_schedule=noise_schedule,
            prediction=prediction or Epsilon(),
            **training,
        )

"""Two models as LightningModules with defaults: Hugging Face's tutorial and DDPM."""

from typing import Any

from torch import nn

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, StraightPath
from diffusion_lab.diffusion.prediction import Epsilon, Prediction, Sample
from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.errors import UserError
from diffusion_lab.modules.diffusion import DiffusionModule
from diffusion_lab.networks.basic_unet import BasicUNet
from diffusion_lab.networks.unet2d import UNet2D


class BasicUNetModule(DiffusionModule):
    """The model of Hugging Face's tutorial by default: BasicUNet, uniform noise, x0 prediction.

    Sample from it with BlendSampler. Any other network, noise schedule or prediction can be given.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        noise_schedule: NoiseSchedule | None = None,
        prediction: Prediction | None = None,
        **training: Any,
    ) -> None:
        super().__init__(
            network=network or BasicUNet(),
            noise_schedule=noise_schedule or StraightPath(noise="uniform"),
            prediction=prediction or Sample(),
            **training,
        )


class DDPMModule(DiffusionModule):
    """The model of Ho et al. 2020 by default: UNet2D, linear betas, 1,000 timesteps, epsilon.

    Any other network, prediction or noise schedule made from betas (VPSchedule) can be given.
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
                "model=ddpm needs a noise schedule made from betas, but "
                f"{type(noise_schedule).__name__} has no betas: choose "
                "noise_schedule=linear, scaled_linear, cosine, sigmoid, sigmoid_jabri or zero_snr, "
                "or another model"
            )
        super().__init__(
            network=network or UNet2D(),
            noise_schedule=noise_schedule,
            prediction=prediction or Epsilon(),
            **training,
        )

"""The tutorial's objective: corrupt an image, predict the clean one."""

from typing import Any

from torch import nn

from diffusion_lab.diffusion.noise_schedule import LinearSchedule, NoiseSchedule
from diffusion_lab.diffusion.prediction import Prediction, Sample
from diffusion_lab.modules.diffusion import DiffusionModule
from diffusion_lab.networks.basic_unet import BasicUNet


class BasicUNetModule(DiffusionModule):
    """`BasicUNetModule()` is the tutorial's: BasicUNet, uniform noise, x0 by squared error.

    Sampled by BlendSampler. Any part can be given in place of the tutorial's.
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
            noise_schedule=noise_schedule or LinearSchedule(noise="uniform"),
            prediction=prediction or Sample(),
            **training,
        )

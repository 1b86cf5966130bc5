"""Training objectives as LightningModules."""

from diffusion_lab.modules.basic_unet import BasicUNetModule
from diffusion_lab.modules.ddpm import DDPMModule
from diffusion_lab.modules.diffusion import DiffusionModule

__all__ = ["BasicUNetModule", "DDPMModule", "DiffusionModule"]

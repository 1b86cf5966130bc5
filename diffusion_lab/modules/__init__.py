"""Training objectives as LightningModules."""

from diffusion_lab.modules.diffusion import DiffusionModule
from diffusion_lab.modules.presets import BasicUNetModule, DDPMModule

__all__ = ["BasicUNetModule", "DDPMModule", "DiffusionModule"]

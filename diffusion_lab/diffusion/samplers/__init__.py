"""Samplers: given a denoiser and a noise schedule, from noise to images."""

from diffusion_lab.diffusion.samplers.base import Denoise, Sampler, Step, sample_steps
from diffusion_lab.diffusion.samplers.from_diffusers import DiffusersSampler
from diffusion_lab.diffusion.samplers.ode import BlendSampler, HeunSampler
from diffusion_lab.diffusion.samplers.sde import LangevinSampler, ReverseSDESampler

__all__ = [
    "BlendSampler",
    "Denoise",
    "DiffusersSampler",
    "HeunSampler",
    "LangevinSampler",
    "ReverseSDESampler",
    "Sampler",
    "Step",
    "sample_steps",
]

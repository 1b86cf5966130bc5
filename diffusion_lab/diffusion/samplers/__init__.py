"""Samplers, which turn noise into images with a denoiser and a noise schedule."""

from diffusion_lab.diffusion.samplers.base import Denoise, Sampler, Step, sample_steps
from diffusion_lab.diffusion.samplers.from_diffusers import DiffusersSampler
from diffusion_lab.diffusion.samplers.function import FunctionSampler, function_sampler
from diffusion_lab.diffusion.samplers.ode import BlendSampler, HeunSampler
from diffusion_lab.diffusion.samplers.sde import LangevinSampler, ReverseSDESampler

__all__ = [
    "BlendSampler",
    "Denoise",
    "DiffusersSampler",
    "FunctionSampler",
    "HeunSampler",
    "LangevinSampler",
    "ReverseSDESampler",
    "Sampler",
    "Step",
    "function_sampler",
    "sample_steps",
]

"""The diffusion core: paths, predictions, samplers. torch and diffusers only."""

from diffusion_lab.diffusion.noise_schedule import LinearSchedule, NoiseSchedule, VPSchedule
from diffusion_lab.diffusion.prediction import Epsilon, Flow, Prediction, Sample, VPrediction
from diffusion_lab.diffusion.sampler import (
    BlendSampler,
    DiffusersSampler,
    Sampler,
    Step,
    sample_steps,
)

__all__ = [
    "BlendSampler",
    "DiffusersSampler",
    "Epsilon",
    "Flow",
    "LinearSchedule",
    "NoiseSchedule",
    "Prediction",
    "Sample",
    "Sampler",
    "Step",
    "VPSchedule",
    "VPrediction",
    "sample_steps",
]

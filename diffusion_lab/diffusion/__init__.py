"""The diffusion process: noise schedules, predictions, weightings and samplers."""

from diffusion_lab.diffusion.editing import (
    decode,
    encode,
    image_to_image,
    inpaint,
    interpolate,
)
from diffusion_lab.diffusion.guidance import GuidedDenoiser
from diffusion_lab.diffusion.noise_schedule import (
    LinearSchedule,
    NoiseSchedule,
    StraightPath,
    VESchedule,
)
from diffusion_lab.diffusion.pairing import independent, optimal_transport
from diffusion_lab.diffusion.prediction import (
    EDM,
    Epsilon,
    Flow,
    Prediction,
    Sample,
    Score,
    VPrediction,
)
from diffusion_lab.diffusion.samplers import (
    BlendSampler,
    Denoise,
    DiffusersSampler,
    FunctionSampler,
    HeunSampler,
    LangevinSampler,
    ReverseSDESampler,
    Sampler,
    Step,
    function_sampler,
    sample_steps,
)
from diffusion_lab.diffusion.sigmoid_schedule import SigmoidSchedule
from diffusion_lab.diffusion.time_sampling import (
    LogitNormalTime,
    LogNormalTime,
    NoiseEndTime,
    TimeSampling,
    UniformTime,
)
from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.diffusion.weighting import (
    EDMWeighting,
    LearnedWeighting,
    MinSNR,
    SigmaPower,
    UniformWeighting,
    Weighting,
)

__all__ = [
    "EDM",
    "BlendSampler",
    "Denoise",
    "DiffusersSampler",
    "EDMWeighting",
    "Epsilon",
    "Flow",
    "FunctionSampler",
    "GuidedDenoiser",
    "HeunSampler",
    "LangevinSampler",
    "LearnedWeighting",
    "LinearSchedule",
    "LogNormalTime",
    "LogitNormalTime",
    "MinSNR",
    "NoiseEndTime",
    "NoiseSchedule",
    "Prediction",
    "ReverseSDESampler",
    "Sample",
    "Sampler",
    "Score",
    "SigmaPower",
    "SigmoidSchedule",
    "Step",
    "StraightPath",
    "TimeSampling",
    "UniformTime",
    "UniformWeighting",
    "VESchedule",
    "VPSchedule",
    "VPrediction",
    "Weighting",
    "decode",
    "encode",
    "function_sampler",
    "image_to_image",
    "independent",
    "inpaint",
    "interpolate",
    "optimal_transport",
    "sample_steps",
]

"""The types of the commands that measure trained runs."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.sample import RunDataConfig


@dataclass
class EvaluateConfig:
    """Scores of images drawn from a trained run."""

    run: str | None = None
    images: Any = None
    labels: Any = None
    autoguidance: str | None = None
    out: str | None = None
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)
    guidance_scale: float | None = None
    guidance_interval: Any = None
    num_samples: int | None = None
    seeds: Any = None
    batch_size: int = 500
    extractor: str | None = None
    accelerator: str = "auto"
    precision: str = "32-true"
    paths: RunDataConfig = field(default_factory=RunDataConfig)
    sampler: Any = MISSING


@dataclass
class DiagnoseConfig:
    """What a trained run learned."""

    run: str = MISSING
    parts: str = "all"
    out: str | None = None
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)
    seed: int = 0
    batch_size: int = 64
    accelerator: str = "auto"
    levels: int = 16
    num_images: int = 256
    samples: str | None = None
    num_samples: int = 256
    num_held_out: int = 2000
    extractor: str | None = None
    sampler: Any = MISSING
    paths: RunDataConfig = field(default_factory=RunDataConfig)


@dataclass
class LikelihoodConfig:
    """The likelihood of real images under a trained run."""

    run: str = MISSING
    method: str = MISSING
    split: str = "test"
    num_images: int = 64
    labels: str = "none"
    seed: int = 0
    batch_size: int = 64
    tolerance: float = 1e-3
    probes: int = 1
    draws: int = 1
    start_ratio: float | None = None
    variance: str = "fixed_small"
    num_timesteps: int | None = None
    out: str | None = None
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)
    accelerator: str = "auto"
    paths: RunDataConfig = field(default_factory=RunDataConfig)

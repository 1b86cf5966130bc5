"""Schemas of the commands that evaluate a trained run."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.base import RunDataConfig, RunSource, limited, seed_field


@dataclass
class EvaluateConfig(RunSource):
    """Options of scripts/evaluate.py."""

    run: str | None = None  # type: ignore[assignment]
    pipeline: str | None = None
    images: Any = None
    data: Any = None
    reference: str | None = None
    labels: Any = None
    autoguidance: str | None = None
    out: str | None = None
    guidance_scale: float | None = None
    guidance_interval: Any = None
    num_samples: int | None = limited(None, least=2)
    seeds: Any = None
    batch_size: int = limited(500, least=1)
    extractor: str | None = None
    accelerator: str = "auto"
    precision: str = "32-true"
    paths: RunDataConfig = field(default_factory=RunDataConfig)
    sampler: Any = MISSING


@dataclass
class DiagnoseConfig(RunSource):
    """Options of scripts/diagnose.py."""

    parts: str = "all"
    out: str | None = None
    seed: int = seed_field()
    batch_size: int = limited(64, least=1)
    accelerator: str = "auto"
    levels: int = limited(16, least=2)
    num_images: int = limited(256, least=2)
    samples: str | None = None
    num_samples: int = limited(256, least=1)
    num_held_out: int = limited(2000, least=1)
    extractor: str | None = None
    sampler: Any = MISSING
    paths: RunDataConfig = field(default_factory=RunDataConfig)


@dataclass
class LikelihoodConfig(RunSource):
    """Options of scripts/likelihood.py."""

    method: str = MISSING
    split: str = "test"
    num_images: int = limited(64, least=1)
    labels: str = "none"
    seed: int = seed_field()
    batch_size: int = limited(64, least=1)
    tolerance: float = 1e-3
    probes: int = limited(1, least=1)
    draws: int = limited(1, least=1)
    start_ratio: float | None = None
    variance: str = "fixed_small"
    num_timesteps: int | None = None
    out: str | None = None
    accelerator: str = "auto"
    paths: RunDataConfig = field(default_factory=RunDataConfig)

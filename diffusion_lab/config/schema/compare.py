"""Schemas of the commands that compare runs, or samplers of one run."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.base import RunDataConfig, RunSource, limited


@dataclass
class CompareConfig:
    """Options of scripts/compare.py."""

    runs: Any = MISSING
    baseline: str | None = None
    metrics: Any = MISSING
    sampler: Any = None
    num_samples: int | None = None
    out: str | None = None


@dataclass
class TradeoffConfig(RunSource):
    """Options of scripts/tradeoff.py."""

    samplers: Any = None
    num_steps: Any = MISSING
    spacings: Any = None
    num_samples: int = MISSING
    seeds: Any = 1
    out: str | None = None
    labels: Any = None
    guidance_scale: float | None = None
    extractor: str | None = None
    batch_size: int = limited(MISSING, least=1)
    accelerator: str = "auto"
    paths: RunDataConfig = field(default_factory=RunDataConfig)

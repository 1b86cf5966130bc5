"""The types of what holds results against each other: runs, and the samplers of one run."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.sample import RunDataConfig


@dataclass
class CompareConfig:
    """Runs that were evaluated, side by side."""

    runs: Any = MISSING
    baseline: str | None = None
    metrics: Any = MISSING
    sampler: Any = None
    num_samples: int | None = None
    out: str | None = None


@dataclass
class TradeoffConfig:
    """Quality against cost of one run's samplers."""

    run: str = MISSING
    samplers: Any = None
    num_steps: Any = MISSING
    spacings: Any = None
    num_samples: int = MISSING
    seeds: Any = 1
    out: str | None = None
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)
    labels: Any = None
    guidance_scale: float | None = None
    extractor: str | None = None
    batch_size: int = MISSING
    accelerator: str = "auto"
    paths: RunDataConfig = field(default_factory=RunDataConfig)

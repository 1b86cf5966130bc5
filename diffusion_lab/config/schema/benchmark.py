"""Schema of scripts/benchmark.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.base import limited


@dataclass
class BenchmarkPathsConfig:
    """Folders of the data and the results."""

    data_dir: str | None = None
    log_dir: str = MISSING


@dataclass
class BenchmarkDataConfig:
    """Options of the data set, as in scripts/train.py."""

    name: str = MISSING
    channels: int = MISSING
    image_size: Any = MISSING
    source: str = "auto"
    val_size: int | None = 5000
    num_images: int | None = None


@dataclass
class BenchmarkConfig:
    """Options of scripts/benchmark.py."""

    parts: Any = None
    repeats: int = limited(5, least=1)
    seconds: float = 15.0
    batch_size: int = limited(128, least=1)
    num_samples: int = limited(32, least=1)
    largest: int | None = limited(None, least=1)
    run: str | None = None
    precision: str = "auto"
    words: list[str] = field(default_factory=list)
    data: BenchmarkDataConfig = field(default_factory=BenchmarkDataConfig)
    accelerator: str = "auto"
    threads: int | None = limited(None, least=1)
    out: str | None = None
    paths: BenchmarkPathsConfig = field(default_factory=BenchmarkPathsConfig)

"""The types of the benchmark."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class BenchmarkPathsConfig:
    """Where the data are and where results go."""

    data_dir: str | None = None
    log_dir: str = MISSING


@dataclass
class BenchmarkDataConfig:
    """Which images, as in scripts/train.py."""

    name: str = MISSING
    channels: int = MISSING
    image_size: int = MISSING
    source: str = "auto"
    val_size: int = 5000
    num_images: int | None = None


@dataclass
class BenchmarkConfig:
    """Speed and memory against the plain way of doing the same."""

    parts: Any = None
    repeats: int = 5
    seconds: float = 15.0
    batch_size: int = 128
    num_samples: int = 32
    largest: int | None = None
    run: str | None = None
    precision: str = "auto"
    words: list[str] = field(default_factory=list)
    data: BenchmarkDataConfig = field(default_factory=BenchmarkDataConfig)
    accelerator: str = "auto"
    threads: int | None = None
    out: str | None = None
    paths: BenchmarkPathsConfig = field(default_factory=BenchmarkPathsConfig)

"""Schema of scripts/train.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.base import limited, seed_field
from diffusion_lab.config.schema.data import DataConfig

MAX_THREADS = 1024


@dataclass
class PathsConfig:
    """Folders of the data, of all results, and of the current run."""

    data_dir: str | None = None
    log_dir: str = MISSING
    output_dir: str = MISSING


@dataclass
class TeacherConfig:
    """Options of reflow: the teacher run, and how to sample (noise, image) pairs from it."""

    run: str | None = None
    num_pairs: int = limited(40000, least=1)
    guidance_scale: float | None = None
    sampler: Any = None


@dataclass
class CommandConfig:
    """Overrides of the command line and the chosen option of each group, filled in by Hydra."""

    overrides: Any = MISSING
    choices: Any = MISSING


@dataclass
class TrainConfig:
    """Options of scripts/train.py."""

    command: CommandConfig = field(default_factory=CommandConfig)

    seed: int = seed_field()
    latents: str | None = None
    guidance_scale: float = 1.0
    guidance_interval: Any = None
    threads: int | None = limited(None, 1, MAX_THREADS)
    init_from: str | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    replay: str | None = None
    trust: list[str] | None = None
    monitor: str = "val/loss"
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    network: Any = MISSING
    noise_schedule: Any = MISSING
    prediction: Any = MISSING
    weighting: Any = MISSING
    time_sampling: Any = MISSING
    pairing: Any = MISSING
    augment: Any = None
    sampler: Any = MISSING
    optimizer: Any = MISSING
    lr_scheduler: Any = MISSING
    model: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = None
    logger: Any = None

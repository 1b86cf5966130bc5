"""Schema of scripts/train_extractor.py."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from diffusion_lab.config.schema.base import seed_field
from diffusion_lab.config.schema.data import SourceConfig
from diffusion_lab.config.schema.train import PathsConfig


@dataclass
class TrainExtractorConfig:
    """Options of scripts/train_extractor.py."""

    version: str = MISSING
    out: str = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: SourceConfig = field(default_factory=SourceConfig)
    architecture: str | None = None
    max_epochs: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    shift: float | None = None
    rotation: float | None = None
    scale: float | None = None
    flip: bool | None = None
    seed: int = seed_field(MISSING)
    accelerator: str = MISSING

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
    max_epochs: int = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    shift: float = MISSING
    rotation: float = MISSING
    scale: float = MISSING
    seed: int = seed_field(MISSING)
    accelerator: str = MISSING

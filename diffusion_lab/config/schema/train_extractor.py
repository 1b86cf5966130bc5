"""Schema of scripts/train_extractor.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.base import seed_field
from diffusion_lab.config.schema.train import PathsConfig


@dataclass
class ExtractorDataConfig:
    """Arguments of ImageDataModule, without the value range, which the extractor sets."""

    name: str = MISSING
    data_dir: str | None = "${paths.data_dir}"
    source: str = "auto"
    channels: int = MISSING
    image_size: int = MISSING
    batch_size: int | None = None
    val_size: int = MISSING
    train_size: int | None = None
    num_images: int | None = None
    images: Any = None
    num_classes: int | None = None
    seed: int = "${seed}"  # type: ignore[assignment]


@dataclass
class TrainExtractorConfig:
    """Options of scripts/train_extractor.py."""

    version: str = MISSING
    out: str = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: ExtractorDataConfig = field(default_factory=ExtractorDataConfig)
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

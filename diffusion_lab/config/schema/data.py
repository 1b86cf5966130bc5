"""Options of data sets, shared by several commands."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class SourceConfig:
    """Options that select a data set, the size of its images and the sizes of its splits."""

    name: str = MISSING
    data_dir: str | None = "${paths.data_dir}"
    source: str = "auto"
    channels: int = MISSING
    image_size: Any = MISSING
    batch_size: int | None = 128
    val_size: int | None = 5000
    train_size: int | None = None
    seed: int = "${seed}"  # type: ignore[assignment]
    value_range: str = "zero_one"

    # options of some data sets only, see diffusion_lab/data/sources
    num_images: int | None = None
    images: Any = None
    num_classes: int | None = None
    path: str | None = None
    labelled: Any = None
    resize: str | None = None
    background: str | None = None
    unreadable: str | None = None
    cache_dir: str | None = None
    config: str | None = None
    split: str | None = None
    test_split: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    distribution: str | None = None
    num_points: int | None = None
    num_test_points: int | None = None
    points_seed: int | None = None


@dataclass
class DataConfig(SourceConfig):
    """Arguments of ImageDataModule."""

    _target_: str = "diffusion_lab.data.datamodule.ImageDataModule"
    _convert_: str = "all"
    latents: str | None = "${absolute_folder:${latents}}"
    flip: bool = False
    clusters: int | None = None
    on_device: Any = "auto"

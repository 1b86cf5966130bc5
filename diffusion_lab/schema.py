"""The types of the configuration: a key that is not here, in YAML or typed, is an error.

Groups whose keys are the arguments of the class they name (`_target_`) are open here; they are
held against that class by `run.check`. Imports neither torch nor lightning.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class PathsConfig:
    """Where things are read from and written to."""

    data_dir: str = MISSING
    log_dir: str = MISSING
    output_dir: str = MISSING


@dataclass
class DataConfig:
    """Arguments of ImageDataModule."""

    _target_: str = "diffusion_lab.data.datamodule.ImageDataModule"
    _convert_: str = "all"
    name: str = MISSING
    data_dir: str = "${paths.data_dir}"
    source: str = "auto"
    channels: int = MISSING
    image_size: int = MISSING
    value_range: str = "zero_one"
    batch_size: int = 128
    val_size: int = 5000
    train_size: int | None = None
    num_images: int | None = None
    seed: int = "${seed}"  # type: ignore[assignment]


@dataclass
class CommandConfig:
    """How the configuration came about; filled in, not set."""

    overrides: Any = MISSING
    choices: Any = MISSING


@dataclass
class TrainConfig:
    """A training run."""

    command: CommandConfig = field(default_factory=CommandConfig)

    seed: int = 0
    init_from: str | None = None
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
    sampler: Any = MISSING
    optimizer: Any = MISSING
    lr_scheduler: Any = MISSING
    model: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = None
    logger: Any = None


@dataclass
class SampleConfig:
    """A drawing of images from a trained run."""

    run: str | None = None
    pipeline: str | None = None
    out: str | None = None
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)
    labels: Any = None
    guidance_scale: Any = 1.0
    guidance_interval: Any = None
    autoguidance: str | None = None
    num_samples: int = 64
    batch_size: int = 64
    seed: int = 0
    accelerator: str = "auto"
    trajectory_steps: int = 5
    sampler: Any = MISSING


@dataclass
class ExportConfig:
    """A trained run made into a folder for diffusers."""

    run: str = MISSING
    out: str = MISSING
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)
    onnx: bool = False
    license: str = "apache-2.0"
    push: str | None = None
    private: bool = False
    endpoint: str | None = None
    sampler: Any = MISSING


@dataclass
class EditPathsConfig:
    """Where an edit looks for the run's data."""

    data_dir: str | None = None


@dataclass
class EditConfig:
    """An edit of given images by a trained run; what one kind of edit needs stands below."""

    edit: str = MISSING
    run: str = MISSING
    images: Any = MISSING
    num_steps: int = MISSING
    out: str | None = None
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)
    labels: Any = "none"
    guidance_scale: float = 1.0
    accelerator: str = "auto"
    paths: EditPathsConfig = field(default_factory=EditPathsConfig)


@dataclass
class InpaintConfig(EditConfig):
    """edit=inpaint."""

    mask: str = MISSING
    num_samples: int = MISSING
    resamplings: int | None = None
    jump_length: int = MISSING
    seed: int = 0


@dataclass
class InterpolateConfig(EditConfig):
    """edit=interpolate."""

    num_points: int = MISSING


@dataclass
class ImageToImageConfig(EditConfig):
    """edit=image_to_image."""

    strength: float = MISSING
    num_samples: int = MISSING
    seed: int = 0


def register() -> None:
    """Make the schemas known to Hydra under the names that the YAML files begin with."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="sample_schema", node=SampleConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(name="edit_schema", node=EditConfig)
    store.store(name="inpaint_schema", node=InpaintConfig)
    store.store(name="interpolate_schema", node=InterpolateConfig)
    store.store(name="image_to_image_schema", node=ImageToImageConfig)

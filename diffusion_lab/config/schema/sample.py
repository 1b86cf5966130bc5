"""The types of what commands make of a trained run: samples, edits, exports."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


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
    guidance_scale: Any = None
    guidance_interval: Any = None
    autoguidance: str | None = None
    num_samples: int = 64
    batch_size: int = 64
    seed: int = 0
    accelerator: str = "auto"
    precision: str = "32-true"
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
class RunDataConfig:
    """Where a command looks for the run's data; None: where the run found them."""

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
    paths: RunDataConfig = field(default_factory=RunDataConfig)


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

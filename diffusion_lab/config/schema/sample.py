"""Schemas of the commands that sample, edit or export."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.base import RunDataConfig, RunSource, limited, seed_field


@dataclass
class SampleConfig(RunSource):
    """Options of scripts/sample.py."""

    run: str | None = None  # type: ignore[assignment]
    pipeline: str | None = None
    out: str | None = None
    labels: Any = None
    guidance_scale: Any = None
    guidance_interval: Any = None
    autoguidance: str | None = None
    num_samples: int = limited(64, least=1)
    batch_size: int = limited(64, least=1)
    seed: int = seed_field()
    accelerator: str = "auto"
    precision: str = "32-true"
    trajectory_steps: int = limited(5, least=1)
    sampler: Any = MISSING


@dataclass
class ExportConfig(RunSource):
    """Options of scripts/export.py."""

    out: str = MISSING
    onnx: bool = False
    license: str = "apache-2.0"
    push: str | None = None
    private: bool = False
    endpoint: str | None = None
    sampler: Any = MISSING


@dataclass
class EditConfig(RunSource):
    """Options common to all edits of scripts/edit.py; a subclass adds the options of one edit."""

    edit: str = MISSING
    images: Any = MISSING
    num_steps: int = limited(MISSING, least=1)
    out: str | None = None
    labels: Any = "none"
    guidance_scale: float = 1.0
    accelerator: str = "auto"
    paths: RunDataConfig = field(default_factory=RunDataConfig)


@dataclass
class InpaintConfig(EditConfig):
    """Options of edit=inpaint."""

    mask: str = MISSING
    num_samples: int = limited(MISSING, least=1)
    resamplings: int | None = None
    jump_length: int = MISSING
    seed: int = seed_field()


@dataclass
class InterpolateConfig(EditConfig):
    """Options of edit=interpolate."""

    num_points: int = limited(MISSING, least=2)


@dataclass
class ImageToImageConfig(EditConfig):
    """Options of edit=image_to_image."""

    strength: float = MISSING
    num_samples: int = limited(MISSING, least=1)
    seed: int = seed_field()

"""Settings shared by all measurements: repeats, time, data and device."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from diffusion_lab.benchmark.timing import how_many
from diffusion_lab.config.compose import compose_config
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.datamodule import ImageDataModule

MOST = 2000  # work items per block, however short they are


@dataclass(frozen=True)
class Settings:
    """Settings of a benchmark."""

    repeats: int
    seconds: float
    """Approximate time per result, both sides together; a work item is never cut short."""
    batch_size: int
    num_samples: int
    run: str | None
    device: torch.device
    accelerator: str
    threads: int
    precision: str
    """Precision of our training and sampling; baselines use float32."""
    data: str
    """Data set, an option of configs/data/."""
    words: tuple[str, ...]
    """Overrides of scripts/train.py for the data's folder and size."""
    training_words: tuple[str, ...]
    """Overrides of scripts/train.py for our side, such as trainer.compile=true."""
    scratch: Path
    """Folder that is removed at the end."""

    def compose(self, *words: str) -> DictConfig:
        """Compose the configuration of scripts/train.py, with a run folder in `scratch`."""
        fixed = (f"data.batch_size={self.batch_size}", f"trainer.accelerator={self.accelerator}")
        data: tuple[str, ...] = (f"data={self.data}", *self.words)
        if "data=fake" in words:  # the other words set its size
            data = ()
        return compose_config((*data, *fixed, *words), self.new_folder())

    def new_folder(self) -> Path:
        """Return a new folder for a run."""
        return self.scratch / f"run_{secrets.token_hex(3)}"

    def datamodule(self, *words: str) -> ImageDataModule:
        """Load the data of the configuration with these overrides."""
        data: ImageDataModule = build(self.compose(*words).data)
        data.setup("fit")
        return data

    def block(self, *seconds_each: float, most: int = MOST) -> int:
        """Return the number of work items per block that fit in the available time."""
        return how_many(seconds_each, self.repeats, self.seconds, most)


def run_words(words: Sequence[str]) -> str:
    """Join overrides as typed on the command line."""
    return " ".join(words)

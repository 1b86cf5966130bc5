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
    """Settings of a benchmark that all its measurements share."""

    repeats: int
    seconds: float
    """Approximate seconds per result, baseline and ours together; no measurement is cut short."""
    batch_size: int
    num_samples: int
    run: str | None
    device: torch.device
    accelerator: str
    threads: int
    precision: str
    """Precision of our training and sampling; baselines use float32."""
    data: str
    """Data set: the name of a file in configs/data/, such as mnist."""
    words: tuple[str, ...]
    """Overrides of scripts/train.py for the data's folder and size."""
    training_words: tuple[str, ...]
    """Overrides of scripts/train.py for our training only, such as trainer.compile=true."""
    scratch: Path
    """Temporary folder, removed at the end of the benchmark."""

    def compose(self, *words: str) -> DictConfig:
        """Compose the configuration of scripts/train.py from overrides, for a run in `scratch`."""
        fixed = (f"data.batch_size={self.batch_size}", f"trainer.accelerator={self.accelerator}")
        data: tuple[str, ...] = (f"data={self.data}", *self.words)
        if "data=fake" in words:  # the other words set its size
            data = ()
        return compose_config((*data, *fixed, *words), self.new_folder())

    def new_folder(self) -> Path:
        """Return a path in `scratch` for a new run folder."""
        return self.scratch / f"run_{secrets.token_hex(3)}"

    def datamodule(self, *words: str) -> ImageDataModule:
        """Build the data module for these overrides of scripts/train.py, with its data loaded."""
        data: ImageDataModule = build(self.compose(*words).data)
        data.setup("fit")
        return data

    def block(self, *seconds_each: float, most: int = MOST) -> int:
        """Return the number of work items per timed block, by `how_many` with these settings."""
        return how_many(seconds_each, self.repeats, self.seconds, most)


def run_words(words: Sequence[str]) -> str:
    """Join overrides with spaces, as typed on the command line."""
    return " ".join(words)

"""What all measurements share: how often, how long, with which data and where."""

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

MOST = 2000  # pieces of work in a block, however short they are


@dataclass(frozen=True)
class Settings:
    """Of a run of the benchmark."""

    repeats: int
    seconds: float
    """About so long for a figure, both sides together; a piece of work is never cut."""
    batch_size: int
    num_samples: int
    run: str | None
    device: torch.device
    accelerator: str
    threads: int
    precision: str
    """Of our trainings and samples, auto or one of those that are drawn in; the plain way has
    float32."""
    data: str
    """A word of configs/data/."""
    words: tuple[str, ...]
    """Of scripts/train.py: where the data lie, how many there are."""
    training_words: tuple[str, ...]
    """Of scripts/train.py, for our side of the trainings, such as trainer.compile=true."""
    scratch: Path
    """A folder that is removed at the end."""

    def compose(self, *words: str) -> DictConfig:
        """The configuration of scripts/train.py with these words, for a run folder in `scratch`."""
        fixed = (f"data.batch_size={self.batch_size}", f"trainer.accelerator={self.accelerator}")
        data: tuple[str, ...] = (f"data={self.data}", *self.words)
        if "data=fake" in words:  # of its own size
            data = ()
        return compose_config((*data, *fixed, *words), self.new_folder())

    def new_folder(self) -> Path:
        """For a run: none is trained over another."""
        return self.scratch / f"run_{secrets.token_hex(3)}"

    def datamodule(self, *words: str) -> ImageDataModule:
        """The data of such a configuration, loaded."""
        made: ImageDataModule = build(self.compose(*words).data)
        made.setup("fit")
        return made

    def block(self, *seconds_each: float, most: int = MOST) -> int:
        """How many pieces of work make a block within the time there is."""
        return how_many(seconds_each, self.repeats, self.seconds, most)


def run_words(words: Sequence[str]) -> str:
    """Words as they are typed."""
    return " ".join(words)

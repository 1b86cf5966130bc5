"""A real training by scripts/train.py's own function, with a baseline's steps in its pauses."""

import gc
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, open_dict

from diffusion_lab.benchmark.timing import Clock, Comparison, synchronize, timed
from diffusion_lab.errors import UserError
from diffusion_lab.training.train import train

WARM_UP = 2  # steps

# what happens beside the steps: drawn small, because none of it is measured
OFF_THE_CLOCK = (
    "trainer.limit_val_batches=1",
    "trainer.max_epochs=1000000",
    "sampler.num_steps=1",
    "callbacks.samples.num_samples=1",
    "callbacks.figures.num_samples=1",
)


@dataclass
class Blocks:
    """The plan of an interleaved training, and its seconds a step."""

    baseline: Callable[[int], object]
    """Does so many steps of the other side."""
    steps: int
    """In a block of either side."""
    repeats: int
    clock: Clock = time.perf_counter
    baseline_seconds: list[float] = field(default_factory=list)
    our_seconds: list[float] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether all blocks are timed."""
        return len(self.our_seconds) == self.repeats

    @property
    def comparison(self) -> Comparison:
        """Seconds a step."""
        return Comparison(tuple(self.baseline_seconds), tuple(self.our_seconds))


_blocks: ContextVar[Blocks] = ContextVar("_blocks")


@contextmanager
def planned(blocks: Blocks) -> Iterator[None]:
    """Let an `Interleaved` that is made meanwhile, by a configuration, follow this plan."""
    token = _blocks.set(blocks)
    try:
        yield
    finally:
        _blocks.reset(token)


class Interleaved(L.Callback):
    """Stops the training's clock at the start of a step, lets the baseline do a block, goes on.

    A block of ours is so many whole rounds of the loop, from one start of a step to another: the
    batch is fetched, every callback is called. One that an epoch's end falls into begins anew:
    validation and pictures belong to no step.
    """

    def __init__(self) -> None:
        self.blocks = _blocks.get()
        self._seen = 0  # steps of this block
        self._began: float | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget a block that is cut by the epoch's end."""
        self._began = None
        batches = trainer.num_training_batches
        if batches <= 1:
            raise UserError(f"an epoch has {batches} batches: expected at least 2 to time a step")
        self.blocks.steps = min(self.blocks.steps, int(batches) - 1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End a block, begin the next."""
        blocks = self.blocks
        if trainer.global_step < WARM_UP or blocks.done:
            return
        if self._began is not None:
            self._seen += 1
            if self._seen < blocks.steps:
                return
            synchronize(pl_module.device)
            blocks.our_seconds.append((blocks.clock() - self._began) / blocks.steps)
            if blocks.done:
                trainer.should_stop = True
                return
        if len(blocks.baseline_seconds) == len(blocks.our_seconds):  # not after a cut block
            seconds = timed(lambda: blocks.baseline(blocks.steps), pl_module.device, blocks.clock)
            blocks.baseline_seconds.append(seconds / blocks.steps)
        gc.collect()
        synchronize(pl_module.device)
        self._seen, self._began = 0, blocks.clock()


class Screen(io.TextIOWrapper):
    """A terminal that nobody sees: the live bar is drawn, and paid for, as on a real one."""

    def isatty(self) -> bool:
        """It says that it is one."""
        return True


@contextmanager
def on_screen() -> Iterator[None]:
    """Send what is printed to a screen."""
    with Screen(Path(os.devnull).open("wb")) as screen, redirect_stdout(screen):
        yield


def interleaved_training(cfg: DictConfig, blocks: Blocks) -> Comparison:
    """Train as scripts/train.py would until all blocks are timed; -> seconds a step.

    The live bar, the loggers and all callbacks of the configuration are on.
    """
    with open_dict(cfg):
        cfg.callbacks["interleaved"] = {"_target_": f"{__name__}.Interleaved"}
    with planned(blocks), on_screen():
        train(cfg)
    return blocks.comparison

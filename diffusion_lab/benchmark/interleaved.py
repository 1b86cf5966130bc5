"""Time a real training, as scripts/train.py runs it, in alternation with baseline steps."""

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

# validation and sampling are not measured: keep them short
OFF_THE_CLOCK = (
    "trainer.limit_val_batches=1",
    "trainer.max_epochs=1000000",
    "sampler.num_steps=1",
    "callbacks.samples.num_samples=1",
    "callbacks.figures.num_samples=1",
)


@dataclass
class Blocks:
    """Blocks of steps that a training and a baseline run in turn, and their measured times."""

    baseline: Callable[[int], object]
    """Function that runs the given number of baseline steps."""
    steps: int
    """Steps per block, equal for the training and the baseline."""
    repeats: int
    clock: Clock = time.perf_counter
    baseline_seconds: list[float] = field(default_factory=list)
    """Seconds per baseline step, one value per timed block."""
    our_seconds: list[float] = field(default_factory=list)
    """Seconds per training step, one value per timed block."""

    @property
    def done(self) -> bool:
        """True if all `repeats` blocks of training steps have been timed."""
        return len(self.our_seconds) == self.repeats

    @property
    def comparison(self) -> Comparison:
        """Seconds per step of the baseline and of the training."""
        return Comparison(tuple(self.baseline_seconds), tuple(self.our_seconds))


_blocks: ContextVar[Blocks] = ContextVar("_blocks")


@contextmanager
def planned(blocks: Blocks) -> Iterator[None]:
    """Pass `blocks` to the `Interleaved` callback that is built within this context.

    `blocks` holds the plan of a measurement and receives the measured times. It cannot be an
    argument of the callback, because Hydra builds the callback from the configuration.
    """
    token = _blocks.set(blocks)
    try:
        yield
    finally:
        _blocks.reset(token)


class Interleaved(L.Callback):
    """Alternate blocks of training steps with blocks of baseline steps, and time both.

    A block of training lasts from the start of one step to the start of a later one, including the
    fetching of batches and all callbacks. A block that contains the end of an epoch is repeated,
    because its time would include validation and sampling.
    """

    def __init__(self) -> None:
        self.blocks = _blocks.get()
        self._seen = 0  # steps of this block
        self._began: float | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the unfinished block of steps, and shorten blocks to fit into an epoch."""
        self._began = None
        batches = trainer.num_training_batches
        if batches <= 1:
            raise UserError(
                f"an epoch has {batches} batches: expected at least 2, to time a step; type a "
                "smaller batch_size= or a larger data.num_images="
            )
        self.blocks.steps = min(self.blocks.steps, int(batches) - 1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """At the end of a block of training steps, record its time and run a baseline block.

        The next training block begins afterwards.
        """
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
        if len(blocks.baseline_seconds) == len(blocks.our_seconds):  # not after a discarded block
            seconds = timed(lambda: blocks.baseline(blocks.steps), pl_module.device, blocks.clock)
            blocks.baseline_seconds.append(seconds / blocks.steps)
        gc.collect()
        synchronize(pl_module.device)
        self._seen, self._began = 0, blocks.clock()


class Screen(io.TextIOWrapper):
    """A simulated terminal without display, so that the cost of the progress bar is included."""

    def isatty(self) -> bool:
        """Return True, as for a terminal."""
        return True


@contextmanager
def on_screen() -> Iterator[None]:
    """Redirect stdout to a simulated terminal."""
    with Screen(Path(os.devnull).open("wb")) as screen, redirect_stdout(screen):
        yield


def interleaved_training(cfg: DictConfig, blocks: Blocks) -> Comparison:
    """Time a training, run as by scripts/train.py, in alternation with baseline steps.

    Returns the seconds per step. `blocks` holds the baseline, and the number and length of the
    timed blocks of steps, after which the training ends. Progress bar, loggers and all callbacks
    of the configuration are active.
    """
    with open_dict(cfg):
        cfg.callbacks["interleaved"] = {"_target_": f"{__name__}.Interleaved"}
    with planned(blocks), on_screen():
        train(cfg)
    return blocks.comparison

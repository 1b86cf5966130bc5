"""Overhead of the trainer: time per step beyond a bare loop over the same batches.

The network is tiny, because the varying time of a larger one would hide the overhead. The overhead
does not depend on the network, except for the moving average, which updates every weight.
"""

import statistics
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import lightning as L
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer

from diffusion_lab.benchmark.interleaved import (
    OFF_THE_CLOCK,
    Blocks,
    Interleaved,
    interleaved_training,
    planned,
)
from diffusion_lab.benchmark.settings import Settings, run_words
from diffusion_lab.benchmark.table import Row, Target
from diffusion_lab.benchmark.timing import Comparison, alternate, timed
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.modules import DiffusionModule

TARGET = Target(1.5, at_least=False, limit=1.0)
"""At most 1.5 times the overhead of Lightning's barebones Trainer, and below 1 ms per step."""
WORDS = (
    "data=fake",
    "data.num_images=20000",
    "data.image_size=8",
    "data.batch_size=2",
    "model=basic_unet",
    "network.channels=[4,4]",
)
BLOCKS = 15  # in each fit; their median counts
# the first variant measures logging, progress bar and saving; the second adds FiniteLoss and EMA,
# which compute with every weight, as in a user's training by default
VARIANTS = {
    "a step beyond a bare loop, bar and logs on": (
        "callbacks.finite_loss=null",
        "callbacks.ema=null",
    ),
    "the same with FiniteLoss and EMA, as by default": (),
}


class BareLoop:
    """Plain training loop with the module's loss and optimizer, run a few steps at a time."""

    def __init__(
        self, module: DiffusionModule, data: ImageDataModule, device: torch.device
    ) -> None:
        self.module, self.data, self.device = module.to(device), data, device
        self.optimizer = module.make_optimizer(module.parameters())
        loader = data.train_dataloader()
        self.batches: Iterator[tuple[Tensor, ...]] = chain.from_iterable(repeat(loader))

    def steps(self, count: int) -> None:
        """Train for `count` more steps."""
        for _ in range(count):
            moved = tuple(tensor.to(self.device) for tensor in next(self.batches))
            batch = self.data.on_after_batch_transfer(moved, 0)
            self.optimizer.zero_grad()
            _, losses = self.module.losses(*self.module.draw(*batch))
            losses.mean().backward()
            self.optimizer.step()


class PlainModule(L.LightningModule):
    """The training step of `BareLoop` as a minimal LightningModule."""

    def __init__(self, module: DiffusionModule, data: ImageDataModule) -> None:
        super().__init__()
        self.module, self.data = module, data

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch, ()."""
        inputs = self.module.draw(*self.data.on_after_batch_transfer(batch, 0))
        return self.module.losses(*inputs)[1].mean()

    def configure_optimizers(self) -> Optimizer:
        """Return the module's own optimizer, without a learning-rate schedule."""
        return self.module.make_optimizer(self.parameters())


def bare_loop(settings: Settings, cfg: DictConfig) -> BareLoop:
    """Build a `BareLoop` with the data and the module of a training configuration."""
    data: ImageDataModule = build(cfg.data)
    data.setup("fit")
    return BareLoop(build(cfg.model), data, settings.device)


def overhead(settings: Settings) -> list[Row]:
    """Measure the trainer's overhead in ms per step, against Lightning's Trainer(barebones=True).

    Returns one row for each of `VARIANTS`.
    """
    return [_beyond(settings, what, words) for what, words in VARIANTS.items()]


def _beyond(settings: Settings, what: str, words: Sequence[str]) -> Row:
    cfg = settings.compose(*WORDS, *OFF_THE_CLOCK)
    bare = bare_loop(settings, cfg)
    bare.steps(10)
    once = timed(lambda: bare.steps(10), settings.device) / 10
    # both measurements are a fit that alternates blocks of the bare loop and of a trainer
    steps = settings.block(*[BLOCKS * once] * 4)
    bare_seconds: list[float] = []

    def beyond(seconds: Comparison) -> float:
        bare_seconds.extend(seconds.baseline)
        return 1000 * statistics.median(
            b - a for a, b in zip(seconds.baseline, seconds.ours, strict=True)
        )

    def barebones() -> float:
        data: ImageDataModule = build(cfg.data)
        data.setup("fit")
        blocks = Blocks(bare.steps, steps, BLOCKS)
        with planned(blocks):
            timing = Interleaved()
        L.Trainer(
            barebones=True,
            max_epochs=1_000_000,
            accelerator=settings.accelerator,
            devices=1,
            limit_val_batches=0,
            callbacks=[timing],
        ).fit(PlainModule(build(cfg.model), data), data.train_dataloader())
        return beyond(blocks.comparison)

    def ours() -> float:
        fresh = settings.compose(*WORDS, *OFF_THE_CLOCK, *words)
        return beyond(interleaved_training(fresh, Blocks(bare.steps, steps, BLOCKS)))

    comparison = alternate(barebones, ours, settings.repeats, warm_up=False)
    return Row(
        "overhead",
        what,
        "Trainer(barebones=True) beyond the same loop",
        "ms",
        comparison,
        TARGET,
        {
            "words": run_words((*WORDS, *words)),
            "steps_in_a_block": steps,
            "bare_step_ms": 1000 * statistics.median(bare_seconds),
        },
    )

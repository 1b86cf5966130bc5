"""Exponential moving average (EMA) of the weights, for validation, sampling and export.

Used in place of Lightning's WeightAveraging, so that checkpoints keep the trained weights in
`state_dict`, and steps that FiniteLoss skips are left out of the average.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.callbacks.finite_loss import FiniteLoss
from diffusion_lab.errors import UserError
from diffusion_lab.system.lightning import callbacks_of


class EMA(L.Callback):
    """Keep an exponential moving average of the weights, and validate with the average.

    After optimizer step n (from 1), average += (1 - d) (weights - average), where d = min(decay,
    (1 + n) / (10 + n)). The average starts as a copy of the initial weights. The warm-up of d makes
    the average usable in short runs. diffusers' `training_utils.EMAModel` with its defaults is one
    step behind: its d is 0 at the first step, which drops the initial weights, and then min(decay,
    n / (9 + n)). Both averages agree if EMAModel is stepped once before training.

    The average is kept in float32 in every precision. Validation uses the average, so the `best`
    checkpoint is the one with the best average. Training uses the trained weights. A checkpoint
    holds the trained weights in `state_dict`, and the average in `ema` as {"weights":
    name -> tensor, "steps": n}.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.ema.decay={decay}: expected at least 0 and below 1")
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}  # the trained weights while the average is swapped in
        self._weights: list[Tensor] = []  # detached
        self._in_float32 = True
        self._averages: list[Tensor] = []  # in the order of _weights
        self._guards: list[FiniteLoss] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the average from the initial weights, or from the average in the checkpoint."""
        self.average = {
            name: self.average.get(name, p.detach()).to(p.device, torch.float32, copy=True)
            for name, p in pl_module.named_parameters()
        }
        self._weights = [p.detach() for p in pl_module.parameters()]
        self._in_float32 = all(p.dtype == torch.float32 for p in self._weights)
        self._averages = list(self.average.values())
        self._guards = callbacks_of(trainer, FiniteLoss)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Update the average once per optimizer step, except for a step that FiniteLoss skips."""
        steps = trainer.global_step
        if steps == self.steps:  # in the middle of gradient accumulation
            return
        self.steps = steps
        if any(guard.skipping for guard in self._guards):
            return
        decay = min(self.decay, (1 + steps) / (10 + steps))
        weights = self._weights if self._in_float32 else [p.float() for p in self._weights]
        torch._foreach_lerp_(self._averages, weights, 1 - decay)

    @torch.no_grad()
    def swap_in(self, module: L.LightningModule) -> None:
        """Replace the module's weights by the average until `swap_out`."""
        parameters = dict(module.named_parameters())
        self._trained = {name: p.detach().clone() for name, p in parameters.items()}
        for name, p in parameters.items():
            p.copy_(self.average[name])

    @torch.no_grad()
    def swap_out(self, module: L.LightningModule) -> None:
        """Restore the trained weights; do nothing if `swap_in` was not called before."""
        for name, p in module.named_parameters():
            if name in self._trained:
                p.copy_(self._trained[name])
        self._trained = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the weights by the average, so that validation uses the average."""
        self.swap_in(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the trained weights, before checkpoint callbacks save them."""
        self.swap_out(pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Restore the trained weights, so that a checkpoint saved after an error has these."""
        self.swap_out(pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the average to the checkpoint, under `ema` and the names of the parameters."""
        checkpoint["ema"] = {"weights": dict(self.average), "steps": self.steps}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the average, if the checkpoint holds one."""
        if "ema" in checkpoint:
            self.average, self.steps = checkpoint["ema"]["weights"], checkpoint["ema"]["steps"]


@contextmanager
def averaged(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Use the EMA weights of the module within this context, if the run keeps an EMA."""
    emas = callbacks_of(trainer, EMA)
    for ema in emas:
        ema.swap_in(module)
    try:
        yield
    finally:
        for ema in emas:
            ema.swap_out(module)

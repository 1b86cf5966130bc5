"""A moving average of the weights: what validation, pictures, sampling and export use."""

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
    """After step n, average += (1 - d) (weights - average) with d = min(decay, (1 + n) / (10 + n)).

    n counts optimizer steps from 1, and the average begins at the first weights. The warm-up of d
    lets short runs use it too. diffusers' `training_utils.EMAModel` with its defaults has d one
    step later: 0 at its first step, which drops the first weights, then min(decay, n / (9 + n)).
    One that is stepped on the first weights before the training is this one.

    The average is kept in float32, whatever the precision of the run. Validation sees the average,
    so `best` is the best average; training never does. A checkpoint holds the trained weights in
    `state_dict`, as always, and the average in `ema`: {"weights": name -> tensor, "steps": n}.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.ema.decay={decay}: expected a number from 0 to below 1")
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}  # the weights that the average stands in for
        self._weights: list[Tensor] = []  # apart from autograd
        self._in_float32 = True
        self._averages: list[Tensor] = []  # theirs, in the same order
        self._guards: list[FiniteLoss] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the weights as they are, or where a checkpoint left off."""
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
        """Follow the weights, once an optimizer step."""
        steps = trainer.global_step
        if steps == self.steps:  # a batch whose gradients are still being gathered
            return
        self.steps = steps
        if any(guard.skipping for guard in self._guards):
            return
        decay = min(self.decay, (1 + steps) / (10 + steps))
        weights = self._weights if self._in_float32 else [p.float() for p in self._weights]
        torch._foreach_lerp_(self._averages, weights, 1 - decay)

    @torch.no_grad()
    def swap_in(self, module: L.LightningModule) -> None:
        """Let the module have the average until `take_out`."""
        parameters = dict(module.named_parameters())
        self._trained = {name: p.detach().clone() for name, p in parameters.items()}
        for name, p in parameters.items():
            p.copy_(self.average[name])

    @torch.no_grad()
    def swap_out(self, module: L.LightningModule) -> None:
        """Give the module back what training left in it; does nothing if it has that."""
        for name, p in module.named_parameters():
            if name in self._trained:
                p.copy_(self._trained[name])
        self._trained = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the average."""
        self.swap_in(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Back to training; checkpoint callbacks come after this one."""
        self.swap_out(pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """A run stopped in validation must not save the average as its weights."""
        self.swap_out(pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the average under the names of the parameters."""
        checkpoint["ema"] = {"weights": dict(self.average), "steps": self.steps}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from the average of a checkpoint that has one."""
        if "ema" in checkpoint:
            self.average, self.steps = checkpoint["ema"]["weights"], checkpoint["ema"]["steps"]


@contextmanager
def averaged(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """The module with its moving average, if the run keeps one."""
    emas = callbacks_of(trainer, EMA)
    for ema in emas:
        ema.swap_in(module)
    try:
        yield
    finally:
        for ema in emas:
            ema.swap_out(module)

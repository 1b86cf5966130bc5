"""What the checks hang into trainings, by `+callbacks.<name>._target_=` or in this process."""

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.benchmark.timing import synchronize


class Poison(L.Callback):
    """Makes a pixel of the batch of step 25 not a number."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Called after FiniteLoss has noted where the random streams are."""
        if trainer.global_step == 25:
            batch[0][0, 0, 0, 0] = float("nan")


class LittleMemory(L.Callback):
    """Leaves a training next to nothing of the GPU's memory."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The network is there, its activations are not."""
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(pl_module.device).total_memory
        allowed = torch.cuda.memory_reserved() + 2**20
        torch.cuda.set_per_process_memory_fraction(allowed / total)


class Backend(L.Callback):
    """Says how the processes of a training talk."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """When they can."""
        print("backend", torch.distributed.get_backend())


class NoWaiting(L.Callback):
    """Lets torch raise an error at whatever waits for the GPU in steps 20 to 29."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Called when the batch is there."""
        if trainer.global_step == 20:
            torch.cuda.set_sync_debug_mode("error")
        elif trainer.global_step == 30:
            torch.cuda.set_sync_debug_mode("default")


class Steps(L.Callback):
    """Keeps the losses of a training and the seconds of its steps, validation left out."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.seconds = 0.0
        self._began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        synchronize(pl_module.device)
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Keep the loss where it is, and stop the clock at an epoch's end."""
        self.losses.append(outputs["loss"].detach())
        if trainer.is_last_batch:
            synchronize(pl_module.device)
            self.seconds += time.perf_counter() - self._began

"""Images per second, over the training steps alone."""

import time
from typing import Any

import lightning as L

from diffusion_lab.log_at_once import log_at_once


class Throughput(L.Callback):
    """Logs `images_per_second` every `trainer.log_every_n_steps` steps, summed over processes.

    Wall time between two such steps, without validation and pictures. On a GPU work is queued, so
    the figure is right on average and not for a single interval.
    """

    def __init__(self) -> None:
        self._images = 0
        self._began = 0.0

    def _restart(self) -> None:
        self._images = 0
        self._began = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pictures may have been drawn since the last step."""
        self._restart()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the validation out."""
        self._restart()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count, and report at the logging interval."""
        self._images += len(batch[0]) * trainer.world_size
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (batch_idx + 1) % every == 0:
            rate = self._images / (time.perf_counter() - self._began)
            log_at_once(trainer, {"images_per_second": rate})
            self._restart()

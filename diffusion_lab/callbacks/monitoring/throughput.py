"""Images per second, over the training steps alone."""

import time
from typing import Any

import lightning as L


class Throughput(L.Callback):
    """Measures `images_per_second`, summed over processes, which is logged beside the loss.

    Wall time between two steps that are logged, without validation and pictures. On a GPU work is
    queued, so the figure is right on average and not for a single interval.
    """

    def __init__(self) -> None:
        self._images = 0
        self._began = 0.0

    def _restart(self) -> None:
        self._images = 0
        self._began = time.perf_counter()

    def measured(self) -> float:
        """Images per second since this was asked last, an epoch began or a validation ended."""
        rate = self._images / (time.perf_counter() - self._began)
        self._restart()
        return rate

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that is taken up within an epoch does not begin one."""
        self._restart()

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
        """Count."""
        self._images += len(batch[0]) * trainer.world_size

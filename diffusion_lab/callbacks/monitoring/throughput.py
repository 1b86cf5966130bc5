"""Training speed in images per second."""

import time
from typing import Any

import lightning as L


class Throughput(L.Callback):
    """Measure `images_per_second`, summed over processes, which `StepLog` logs with the loss.

    The value is measured over the wall time between two logged steps, without validation and
    sampling. A GPU queues its work, so a single value may be off, but the average is right.

    Lightning's ThroughputMonitor is not used, because it gives the metric another name.
    """

    def __init__(self) -> None:
        self._images = 0
        self._began = 0.0

    def _restart(self) -> None:
        self._images = 0
        self._began = time.perf_counter()

    def measured(self) -> float:
        """Return images per second since the clock was last restarted, and restart the clock."""
        rate = self._images / (time.perf_counter() - self._began)
        self._restart()
        return rate

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, because a run resumed within an epoch skips on_train_epoch_start."""
        self._restart()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock, to leave out sampling at the end of the previous epoch."""
        self._restart()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock, to leave out the validation."""
        self._restart()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the images of the batch."""
        self._images += len(batch[0]) * trainer.world_size

"""Metrics in the checkpoint that Lightning logs only after saving it."""

from typing import Any

import lightning as L

from diffusion_lab.system.lightning import logs_step, metrics_to_log


class PendingMetrics(L.Callback):
    """Add metrics that Lightning has not logged yet to the checkpoint, under `pending`.

    Lightning logs them right after the checkpoint; a process killed in between would lose that
    point of the curves. Loggers are flushed before the checkpoint. This callback must come before
    the callbacks that save.
    """

    def __init__(self) -> None:
        self._due = False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Remember if Lightning will log this step's metrics after the hook."""
        self._due = logs_step(trainer)

    def on_train_epoch_end(self, *args: Any) -> None:
        """Remember that Lightning will log the epoch's metrics after the hook."""
        self._due = True

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Flush the loggers and add `pending` to a full checkpoint."""
        for logger in trainer.loggers:
            logger.save()
        pending = metrics_to_log(trainer) if self._due else {}
        checkpoint["pending"] = {name: float(value) for name, value in pending.items()}

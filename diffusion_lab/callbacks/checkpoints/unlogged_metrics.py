"""Save metrics that are not logged yet in the checkpoint, so that a resumed run can log them."""

from typing import Any

import lightning as L

from diffusion_lab.system.lightning import logs_step, metrics_to_log


class PendingMetrics(L.Callback):
    """Add an entry `pending` to the checkpoint, with the metrics that are not logged yet.

    Lightning logs these metrics right after the checkpoint is written. If the process is killed in
    between, the loggers lack the metrics, and the resumed run can log them from the checkpoint.
    Loggers are flushed before the checkpoint is written. This callback must come before the
    callbacks that save checkpoints.
    """

    def __init__(self) -> None:
        self._due = False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Note whether Lightning logs metrics at this step, which it does after all callbacks."""
        self._due = logs_step(trainer)

    def on_train_epoch_end(self, *args: Any) -> None:
        """Remember that Lightning will log the epoch's metrics after the callbacks have run."""
        self._due = True

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Flush the loggers; add the metrics not logged yet to the checkpoint, as `pending`."""
        for logger in trainer.loggers:
            logger.save()
        pending = metrics_to_log(trainer) if self._due else {}
        checkpoint["pending"] = {name: float(value) for name, value in pending.items()}

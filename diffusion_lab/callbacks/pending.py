"""What a checkpoint holds of the log."""

from typing import Any

import lightning as L


class PendingMetrics(L.Callback):
    """Adds to a checkpoint what Lightning will only log after it is saved, under `pending`.

    A process killed between the two would lose that one point of the curves. What the loggers have
    been given is written out before. Goes before the callbacks that save.
    """

    def __init__(self) -> None:
        self._due = False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """The step's metrics are logged after this hook, or not at all."""
        # nothing public says whether and what is about to be logged
        self._due = trainer._logger_connector.should_update_logs

    def on_train_epoch_end(self, *args: Any) -> None:
        """The epoch's metrics are logged after this hook."""
        self._due = True

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called by Lightning for every full checkpoint."""
        for logger in trainer.loggers:
            logger.save()
        pending = trainer._logger_connector.metrics["log"] if self._due else {}
        checkpoint["pending"] = {name: float(value) for name, value in pending.items()}

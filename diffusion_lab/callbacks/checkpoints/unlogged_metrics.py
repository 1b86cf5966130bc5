"""What a checkpoint holds of the log."""

from typing import Any

import lightning as L

from diffusion_lab.system.lightning import logs_step, metrics_to_log


class PendingMetrics(L.Callback):
    """Adds to a checkpoint what Lightning will only log after it is saved, under `pending`.

    A process killed between the two would lose that one point of the curves. What the loggers have
    been given is written out before. Goes before the callbacks that save.
    """

    def __init__(self) -> None:
        self._due = False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """The step's metrics are logged after this hook, or not at all."""
        self._due = logs_step(trainer)

    def on_train_epoch_end(self, *args: Any) -> None:
        """The epoch's metrics are logged after this hook."""
        self._due = True

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called by Lightning for every full checkpoint."""
        for logger in trainer.loggers:
            logger.save()
        pending = metrics_to_log(trainer) if self._due else {}
        checkpoint["pending"] = {name: float(value) for name, value in pending.items()}

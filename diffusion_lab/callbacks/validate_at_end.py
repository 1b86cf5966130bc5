"""Validate at the end of a training that max_steps ends within an epoch."""

from typing import Any

import lightning as L


class ValidateAtTheEnd(L.Callback):
    """Validate at the end of training, even if `max_steps` is reached in the middle of an epoch.

    Lightning itself validates at the end of an epoch and after `should_stop`, but not at max_steps.
    """

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Set `should_stop` after step `max_steps`, so that Lightning validates before the end."""
        if trainer.max_steps > 0 and trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

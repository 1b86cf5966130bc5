"""A validation at the end, wherever the end is."""

from typing import Any

import lightning as L


class ValidateAtTheEnd(L.Callback):
    """Makes training that `max_steps` ends in mid-epoch validate before it ends.

    Lightning validates at the end of an epoch, and when it is told to stop, but not at max_steps.
    """

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Say that it is over, which Lightning is about to find out."""
        if trainer.max_steps > 0 and trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

"""Callback that reports the first training step to the parent process, which times start-up."""

from typing import Any

import lightning as L

LINE = "first training step done"


class FirstStep(L.Callback):
    """Print `LINE` after the first training step; the parent process waits for this line."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print `LINE` if this was the first optimizer step."""
        if trainer.global_step == 1:
            print(LINE, flush=True)

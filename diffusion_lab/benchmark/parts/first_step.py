"""Report the end of the first training step to the parent process."""

from typing import Any

import lightning as L

LINE = "first training step done"


class FirstStep(L.Callback):
    """Print a line after the first training step."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print the line after the first step."""
        if trainer.global_step == 1:
            print(LINE, flush=True)

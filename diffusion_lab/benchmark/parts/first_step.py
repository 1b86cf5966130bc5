"""Says when the first training step is done, to whoever started the process."""

from typing import Any

import lightning as L

LINE = "first training step done"


class FirstStep(L.Callback):
    """Prints a line after the first step."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print it."""
        if trainer.global_step == 1:
            print(LINE, flush=True)

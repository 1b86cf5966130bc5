"""Record the training loss of every batch and epoch, without waiting for the device."""

import csv
import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.system.atomic import replacing

log = logging.getLogger(__name__)


class LossHistory(L.Callback):
    """Record every training loss; print and log `train/loss_epoch`, the mean over an epoch.

    `steps` holds the loss of every batch. `epochs` holds the mean over the finite losses of
    every epoch, because steps with a non-finite loss are skipped. `validations` holds pairs of
    (step, validation loss). At the end of training, or on an exception, `steps` is written to
    losses.csv.
    """

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.epochs: list[float] = []
        self.validations: list[tuple[int, float]] = []
        self._pending: list[Tensor] = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss as a tensor on its device, because .item() would wait for a GPU."""
        # Lightning has divided the loss by the number of accumulated batches
        batches = trainer.accumulate_grad_batches
        loss = outputs["loss"].detach()
        self._pending.append(loss if batches == 1 else loss * batches)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's mean loss, with equal weight for every batch, as in the tutorial."""
        if not self._pending:
            return
        # losses restored from a checkpoint are on the CPU
        losses = torch.stack([loss.to(pl_module.device) for loss in self._pending]).float()
        self._pending.clear()
        self.steps += losses.tolist()
        mean = trainer.strategy.reduce(losses[losses.isfinite()].mean(), reduce_op="mean")
        self.epochs.append(float(mean))
        pl_module.log("train/loss_epoch", mean, sync_dist=True)
        # every process must read the metrics, which reduces them over processes: one doing so alone
        # would wait forever for the others
        val = trainer.callback_metrics.get("val/loss")
        if trainer.is_global_zero:
            log.info(
                "epoch %d: average loss %.6f%s",
                trainer.current_epoch,
                self.epochs[-1],
                "" if val is None else f", validation loss {val:.6f}",
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the validation loss for the loss curve."""
        if (loss := trainer.callback_metrics.get("val/loss")) is not None:
            self.validations.append((trainer.global_step, loss.item()))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write losses.csv for an interrupted run too."""
        self.steps += [loss.item() for loss in self._pending]
        self._pending.clear()
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the loss of every batch to losses.csv in the run folder."""
        path = Path(trainer.default_root_dir) / "losses.csv"
        # never recreate a removed run folder
        if trainer.is_global_zero and self.steps and path.parent.is_dir():
            with replacing(path) as part, part.open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["step", "loss"])
                rows.writerows(enumerate(self.steps))

    def state_dict(self) -> dict[str, Any]:
        """Return the losses as plain lists, for the checkpoint."""
        pending = [loss.item() for loss in self._pending]
        return {
            "steps": self.steps + pending,
            "pending": len(pending),
            "epochs": self.epochs,
            "validations": self.validations,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the losses from a checkpoint, which may be from within an epoch."""
        whole = len(state_dict["steps"]) - state_dict["pending"]
        self.steps = state_dict["steps"][:whole]
        self.epochs = list(state_dict["epochs"])
        self.validations = list(state_dict["validations"])
        self._pending = [torch.tensor(loss) for loss in state_dict["steps"][whole:]]

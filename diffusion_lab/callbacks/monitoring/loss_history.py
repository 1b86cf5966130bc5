"""The loss of every step, without waiting for the device at every step."""

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
    """Keeps every training loss, prints and logs `train/loss_epoch`, the mean of the batch losses.

    `steps` holds a loss per batch, `epochs` a mean per epoch (of the finite ones: a step that is
    not finite was skipped, or all that follow are not finite either), `validations` (step,
    validation loss). At the end of training `steps` lie in losses.csv in the run folder.
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
        """Remember the loss where it is: .item() here would stall a GPU."""
        # Lightning hands it out divided by the number of accumulated batches
        batches = trainer.accumulate_grad_batches
        loss = outputs["loss"].detach()
        self._pending.append(loss if batches == 1 else loss * batches)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average the epoch as the tutorial does, every batch counting the same."""
        if not self._pending:
            return
        # those of before a run was taken up are on the CPU
        losses = torch.stack([loss.to(pl_module.device) for loss in self._pending]).float()
        self._pending.clear()
        self.steps += losses.tolist()
        mean = trainer.strategy.reduce(losses[losses.isfinite()].mean(), reduce_op="mean")
        self.epochs.append(float(mean))
        pl_module.log("train/loss_epoch", mean, sync_dist=True)
        # looking at the metrics reduces them: if one process does so alone, and any callback after
        # this one has them exchange something, each waits for the other for ever
        val = trainer.callback_metrics.get("val/loss")
        if trainer.is_global_zero:
            log.info(
                "epoch %d: average loss %.6f%s",
                trainer.current_epoch,
                self.epochs[-1],
                "" if val is None else f", validation loss {val:.6f}",
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the validation losses for the loss curve."""
        if (loss := trainer.callback_metrics.get("val/loss")) is not None:
            self.validations.append((trainer.global_step, loss.item()))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """An interrupted run keeps its losses too."""
        self.steps += [loss.item() for loss in self._pending]
        self._pending.clear()
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write losses.csv."""
        path = Path(trainer.default_root_dir) / "losses.csv"
        # a run folder that was removed is not made again
        if trainer.is_global_zero and self.steps and path.parent.is_dir():
            with replacing(path) as part, part.open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["step", "loss"])
                rows.writerows(enumerate(self.steps))

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, for the checkpoint."""
        pending = [loss.item() for loss in self._pending]
        return {
            "steps": self.steps + pending,
            "pending": len(pending),
            "epochs": self.epochs,
            "validations": self.validations,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint stopped, in the middle of an epoch too."""
        whole = len(state_dict["steps"]) - state_dict["pending"]
        self.steps = state_dict["steps"][:whole]
        self.epochs = list(state_dict["epochs"])
        self.validations = list(state_dict["validations"])
        self._pending = [torch.tensor(loss) for loss in state_dict["steps"][whole:]]

"""Resume a run exactly where its checkpoint was saved, in or between epochs."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from torch import Tensor

from diffusion_lab.system.lightning import (
    accumulates,
    callbacks_of,
    move_logged_step,
    settle,
    validation_is_due,
    was_cut,
)


class ResumeState(L.Callback):
    """Save and restore the parts of the trainer's state that Lightning leaves out.

    In the checkpoint:
        metrics: the last measured metrics.
        stopping: True if early stopping has ended the run, or will end it at `min_epochs`. Ignored
            if `was_finished` is True, because a finished run is resumed to train further.
        gradients: the gradients so far, if the checkpoint is saved in the middle of gradient
            accumulation, as `best` may be after a validation. Only with one process.

    A run resumes after a step, after a validation within an epoch, or at the end of an epoch. If a
    limit ended the run within an epoch and has since been raised, the run continues that epoch.
    """

    def __init__(self, was_finished: bool = False) -> None:
        self.was_finished = was_finished
        self._place: str | None = None
        self._metrics: dict[str, float] = {}
        self._gradients: dict[str, Tensor] = {}

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entries `stopping` and, during accumulation, `gradients` to the checkpoint."""
        by_limit = 0 < trainer.max_steps <= trainer.global_step or any(
            left <= 0
            for timer in callbacks_of(trainer, Timer)
            if (left := timer.time_remaining()) is not None
        )
        checkpoint["stopping"] = trainer.should_stop and not by_limit
        if trainer.world_size == 1 and accumulates(trainer):
            named = pl_module.named_parameters()
            checkpoint["gradients"] = {n: p.grad for n, p in named if p.grad is not None}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the entries of the checkpoint, and where in an epoch it was saved.

        Counters in the checkpoint are corrected before Lightning restores them.
        """
        loops = checkpoint["loops"]["fit_loop"]
        epoch = loops["epoch_progress"]["current"]
        batch = loops["epoch_loop.batch_progress"]["current"]
        if was_cut(loops):
            self._place = "cut"
        elif epoch["processed"] == epoch["ready"]:
            self._place = "epoch"
        elif batch["completed"] == batch["ready"]:
            self._place = "validation"
        settle(loops)
        self._metrics = checkpoint.get("metrics", {})
        self._gradients = checkpoint.get("gradients", {})
        if checkpoint.get("stopping") and not self.was_finished:
            trainer.should_stop = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore metrics and gradients, and correct the counters that Lightning has restored."""
        place, self._place = self._place, None
        known = {name: torch.tensor(value) for name, value in self._metrics.items()}
        trainer.callback_metrics.update(known)
        for name, p in pl_module.named_parameters() if self._gradients else ():
            if name in self._gradients:
                p.grad = self._gradients[name].to(p.device)
        self._metrics, self._gradients = {}, {}
        if place == "epoch":  # a new epoch begins: no batch is left over
            trainer.fit_loop.epoch_loop.restarting = False
        # Lightning counts its logged step twice where a validation would have followed
        elif place == "cut" and validation_is_due(trainer):
            move_logged_step(trainer, -1)
        elif place == "validation" and not validation_is_due(trainer):  # val_check_interval=<time>
            move_logged_step(trainer, int(not accumulates(trainer)))

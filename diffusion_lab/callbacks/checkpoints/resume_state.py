"""Resume a run at the place where its checkpoint was saved, whatever Lightning makes of it."""

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
    """Keeps what neither weights, optimizer, callbacks nor random streams hold.

    A checkpoint holds the metrics measured last under `metrics`, and whether training has been told
    to stop, other than by a limit, under `stopping`: early stopping waits for `min_epochs`. With
    `was_finished` the latter is forgotten: whoever resumes a run that is over wants it to go on.

    One that is saved within a group of accumulated batches, as `best` is after a validation there,
    holds what was gathered under `gradients`; not that of several processes.

    There are three places to resume from: after a step, after a validation within an epoch, and at
    the end of an epoch. A run whose limit cut an epoch, and was raised, goes on within that epoch.
    """

    def __init__(self, was_finished: bool = False) -> None:
        self.was_finished = was_finished
        self._place: str | None = None
        self._metrics: dict[str, float] = {}
        self._gradients: dict[str, Tensor] = {}

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called by Lightning for every full checkpoint."""
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
        """Called before Lightning restores its loops."""
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
        """Called when Lightning has restored them, before the first step."""
        place, self._place = self._place, None
        known = {name: torch.tensor(value) for name, value in self._metrics.items()}
        trainer.callback_metrics.update(known)
        for name, p in pl_module.named_parameters() if self._gradients else ():
            if name in self._gradients:
                p.grad = self._gradients[name].to(p.device)
        self._metrics, self._gradients = {}, {}
        if place == "epoch":  # a new epoch begins, nothing is to be made up for
            trainer.fit_loop.epoch_loop.restarting = False
        # Lightning counts the step it logs by once more where it would have validated
        elif place == "cut" and validation_is_due(trainer):
            move_logged_step(trainer, -1)
        elif place == "validation" and not validation_is_due(trainer):  # it goes by the clock
            move_logged_step(trainer, int(not accumulates(trainer)))

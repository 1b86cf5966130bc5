"""What every step measures, for the loggers, the bar and whatever goes by a metric."""

from time import monotonic
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.callbacks.monitoring.throughput import Throughput
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.system.lightning import accumulates, callbacks_of, logged_step, logs_step

SECONDS_BETWEEN_SAVES = 5.0


class StepLog(L.Callback):
    """Logs `train/loss` and the speed in one row, at the interval and at the end.

    In place of `LightningModule.log`, which is for what is gathered over steps or processes: it
    makes an object a metric, walks through all of them in every step, and has the loggers written
    out at each interval, together longer than all else that a step does beside the network. Here
    they are written out every five seconds; `PendingMetrics` does so before a checkpoint. Goes
    before the callbacks that save.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, Tensor] = {}
        self._throughput: list[Throughput] = []
        self._saved = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the logging over from the module."""
        assert isinstance(pl_module, DiffusionModule)
        pl_module.logs_loss = False
        self._metrics = trainer.callback_metrics  # the trainer's own dictionary
        self._throughput = callbacks_of(trainer, Throughput)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give it back."""
        assert isinstance(pl_module, DiffusionModule)
        pl_module.logs_loss = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Let the loss be found, and log it if it is time, for which alone it is waited."""
        loss = outputs["loss"].detach()
        batches = trainer.accumulate_grad_batches  # by whose number Lightning has divided it
        self._metrics["train/loss"] = loss = loss if batches == 1 else loss * batches
        due = logs_step(trainer)  # as far as Lightning is concerned
        if due and not accumulates(trainer):
            metrics = {"train/loss": loss.item()}
            for throughput in self._throughput:
                metrics["images_per_second"] = throughput.measured()
            self._log(trainer, metrics)

    def _log(self, trainer: L.Trainer, metrics: dict[str, float]) -> None:
        # as Lightning's LearningRateMonitor does; the dictionaries are the trainer's own
        tensors = {name: torch.tensor(value) for name, value in metrics.items()}
        trainer.callback_metrics.update(tensors)
        trainer.logged_metrics.update(tensors)
        trainer.progress_bar_metrics.update(metrics)
        step = logged_step(trainer)
        now = monotonic()
        save = now - self._saved >= SECONDS_BETWEEN_SAVES
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step)
            if save:
                logger.save()
        if save:
            self._saved = now

"""Log loss and speed of training steps to loggers, progress bar and monitored metrics."""

from time import monotonic
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.callbacks.monitoring.throughput import Throughput
from diffusion_lab.system.lightning import accumulates, callbacks_of, logged_step, logs_step

SECONDS_BETWEEN_SAVES = 5.0


class StepLog(L.Callback):
    """Log `train/loss` and `images_per_second` every `log_every_n_steps` steps and at the end.

    Replaces `LightningModule.log`, which is slower: it updates an object per metric at every step,
    and flushes the loggers whenever it logs. Here the loggers are flushed every five seconds, and
    by `PendingMetrics` before a checkpoint. This callback must come before the callbacks that save.
    """

    # saves 0.75 ms per step compared with `LightningModule.log`, where a step takes 4.1 ms
    # (smallest network on a CPU, medians of 375 interleaved blocks of steps)

    def __init__(self) -> None:
        self._metrics: dict[str, Tensor] = {}
        self._throughput: list[Throughput] = []
        self._saved = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep references to the trainer's metrics and to the `Throughput` callback."""
        self._metrics = trainer.callback_metrics  # the trainer's own dictionary
        self._throughput = callbacks_of(trainer, Throughput)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Update the metric `train/loss`; log loss and speed every `log_every_n_steps` steps.

        Only a logged step waits for the device.
        """
        loss = outputs["loss"].detach()
        batches = trainer.accumulate_grad_batches  # Lightning has divided the loss by it
        self._metrics["train/loss"] = loss = loss if batches == 1 else loss * batches
        if logs_step(trainer) and not accumulates(trainer):
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

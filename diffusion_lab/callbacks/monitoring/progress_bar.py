"""Training progress: a progress bar on a terminal, plain lines elsewhere.

The bar extends Lightning's by the time left of the whole training. The plain lines replace the bar
in pipes and log files, where redrawing is not possible.
"""

import logging
import sys
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from torch import Tensor

from diffusion_lab.modules import DiffusionModule

log = logging.getLogger(__name__)

SECONDS_BETWEEN_DRAWS = 0.1


class TimeLeft:
    """Estimate of the time to the end of training, from the progress since this start."""

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._began, self._done_before = time.monotonic(), _progress(trainer, module)

    def now(self, trainer: L.Trainer, module: L.LightningModule) -> str:
        """Return the time left as hours:minutes:seconds; "?" before the first step."""
        done = _progress(trainer, module)
        if done <= self._done_before:
            return "?"
        elapsed = time.monotonic() - self._began
        return str(timedelta(seconds=round(elapsed * (1 - done) / (done - self._done_before))))


def _progress(trainer: L.Trainer, module: L.LightningModule) -> float:
    """Return the fraction of the whole training that is done, including before a resume."""
    assert isinstance(module, DiffusionModule)
    return module.training_progress(trainer.global_step)


def _shown_loss(trainer: L.Trainer, loss: Tensor) -> float | None:
    """Return the loss to display: on a CPU the newest, else the last logged one, if any.

    Reading the newest loss from a GPU would wait for the GPU.
    """
    if loss.device.type == "cpu":
        return loss.item() * trainer.accumulate_grad_batches
    logged = trainer.progress_bar_metrics.get("train/loss")
    return logged if isinstance(logged, float) else None


def _batches(trainer: L.Trainer, done: int) -> int | float:
    """Return the number of batches in this epoch; fewer if max_steps ends training within it.

    `done` is the number of batches done so far in this epoch.
    """
    batches = trainer.num_training_batches
    if trainer.max_steps > 0:
        left = trainer.max_steps - trainer.global_step
        batches = min(batches, done + left * trainer.accumulate_grad_batches)
    return batches


class LiveBar(TQDMProgressBar):
    """Lightning's progress bar, redrawn ten times a second, with the time left of the training.

    Lightning's own bar is redrawn at every step and waits for the device each time.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock for the time left."""
        super().on_train_start(trainer, pl_module)
        self._left = TimeLeft(trainer, pl_module)
        self._drawn = 0.0
        self._loss: Tensor | None = None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Redraw the bar at most ten times a second, and at the end of an epoch."""
        now, bar = time.monotonic(), self.train_progress_bar
        self._loss = outputs["loss"]
        if now - self._drawn >= SECONDS_BETWEEN_DRAWS or batch_idx + 1 == bar.total:
            self._drawn = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        else:
            bar.n = batch_idx + 1  # shown at the next redraw

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the values to show beside the bar: loss, images per second and time left."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if self._loss is not None and (loss := _shown_loss(trainer, self._loss)) is not None:
            metrics["train/loss"] = loss
        return metrics | {"left": self._left.now(trainer, pl_module)}


class PlainLines(ProgressBar):
    """Log a line of progress every `seconds`, for output to pipes, log files and clusters."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._enabled = True

    def enable(self) -> None:
        """Turn the lines on; Lightning calls this in the first process."""
        self._enabled = True

    def disable(self) -> None:
        """Turn the lines off; Lightning calls this in all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks for the time left and for the next line of progress."""
        self._left, self._last = TimeLeft(trainer, pl_module), time.monotonic()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log a line if `seconds` have passed since the last one."""
        now = time.monotonic()
        if not self._enabled or now - self._last < self.seconds:
            return
        self._last = now
        metrics = self.get_metrics(trainer, pl_module)
        rate, loss = metrics.get("images_per_second"), _shown_loss(trainer, outputs["loss"])
        log.info(
            "epoch %d, batch %d/%s: loss %s%s, %s left",
            trainer.current_epoch,
            batch_idx + 1,
            _batches(trainer, batch_idx + 1),
            "not logged yet" if loss is None else f"{loss:.4f}",
            f", {rate:.0f} images/s" if isinstance(rate, float) else "",
            self._left.now(trainer, pl_module),
        )


def progress_bar(seconds: float = 10.0) -> ProgressBar:
    """Return a live bar on a terminal, else a callback that logs a line every `seconds`."""
    return LiveBar() if sys.stdout.isatty() else PlainLines(seconds)

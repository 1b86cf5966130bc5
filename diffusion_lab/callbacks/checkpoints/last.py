"""last.ckpt: the newest state of a run, and a way out that loses nothing."""

import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from diffusion_lab.errors import UserError
from diffusion_lab.system.lightning import accumulates, validation_is_due, will_stop
from diffusion_lab.system.signals import SIGNALS, Stopped

log = logging.getLogger(__name__)


def between_steps(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return True if a run that is saved after this batch can be resumed exactly.

    Not while gradients are gathered over batches, and not before a validation that is due: it would
    be left out. After the validation and at an epoch's end it always can.
    """
    return (
        batch_idx + 1 < trainer.num_training_batches
        and not accumulates(trainer)
        and not will_stop(trainer)
        and not validation_is_due(trainer)
    )


def is_last_epoch(trainer: L.Trainer) -> bool:
    """Whether training ends with the epoch that is ending, as far as is known by now."""
    return will_stop(trainer) or 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1


class LastCheckpoint(Checkpoint):
    """Saves `filename` at every epoch's end and when `every_seconds` have passed since.

    So at most that much is lost to a crash. Ctrl-C and SIGTERM finish the step, or the validation
    that is under way, save and end the run; a second one leaves at once.
    """

    def __init__(self, dirpath: str, filename: str = "last", every_seconds: float = 60.0) -> None:
        if every_seconds < 0:
            raise UserError(
                f"callbacks.last.every_seconds={every_seconds}: expected a number from 0"
            )
        self.path = Path(dirpath, f"{filename}.ckpt")
        self.every_seconds = every_seconds
        self.signal: int | None = None
        self._saved_at = 0.0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and listen."""
        self._saved_at = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._remember)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen no longer."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        log.warning("stopping after this step or validation; once more to leave at once")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time."""
        if self._is_time(trainer) and between_steps(trainer, batch_idx):
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same after a validation within an epoch."""
        if trainer.sanity_checking or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if self._is_time(trainer) and not accumulates(trainer) and not will_stop(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save; of all callbacks this is the last."""
        self._save(trainer)

    def _is_time(self, trainer: L.Trainer) -> bool:
        due = time.monotonic() - self._saved_at >= self.every_seconds
        return self._agreed(trainer, due or self.signal is not None)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = time.monotonic()
        if self._agreed(trainer, self.signal is not None):
            raise Stopped(self.signal or signal.SIGTERM)

    def _agreed(self, trainer: L.Trainer, wish: bool) -> bool:
        """Saving is done by all processes together, so one that wants to is enough."""
        if trainer.world_size == 1:
            return wish
        return trainer.strategy.reduce_boolean_decision(wish, all=False)

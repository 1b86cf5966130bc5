"""Save last.ckpt, the newest state of a run, at regular times and on Ctrl-C or SIGTERM.

Lightning's ModelCheckpoint(save_last=True) is not used, because it also saves in the middle of
gradient accumulation and just before a validation, and such checkpoints do not resume exactly.
"""

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
    """Return True if a run resumes exactly from a checkpoint saved after this batch.

    Return False in the middle of gradient accumulation, and before a validation that is due,
    because the resumed run would skip the validation. Also return False after the last batch of an
    epoch or of the training, because `LastCheckpoint` saves at the end of the epoch anyway.
    """
    return (
        batch_idx + 1 < trainer.num_training_batches
        and not accumulates(trainer)
        and not will_stop(trainer)
        and not validation_is_due(trainer)
    )


def is_last_epoch(trainer: L.Trainer) -> bool:
    """Return True if training is known to end with the current epoch."""
    return will_stop(trainer) or 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1


class LastCheckpoint(Checkpoint):
    """Save a checkpoint at the end of every epoch, and every `every_seconds` within an epoch.

    The file is `dirpath`/`filename`.ckpt. A crash loses only the training since the last save. On
    Ctrl-C or SIGTERM the current step or validation is finished, a checkpoint is saved and the run
    ends. A second signal ends the process at once.

    With `every_epoch=False` the end of an epoch does not cause a save, except at the end of the
    training. This is for epochs of a few seconds and checkpoints of hundreds of megabytes.
    """

    def __init__(
        self,
        dirpath: str,
        filename: str = "last",
        every_seconds: float = 60.0,
        every_epoch: bool = True,
    ) -> None:
        if every_seconds < 0:
            raise UserError(f"callbacks.last.every_seconds={every_seconds}: expected at least 0")
        self.path = Path(dirpath, f"{filename}.ckpt")
        self.every_seconds, self.every_epoch = every_seconds, every_epoch
        self.signal: int | None = None
        self._saved_at = 0.0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock for `every_seconds`; install handlers for Ctrl-C and SIGTERM."""
        self._saved_at = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._remember)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        log.warning("stopping after this step or validation; repeat the signal to stop at once")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if `every_seconds` have passed or a signal has arrived.

        Nothing is saved after a batch from which the run would not resume exactly.
        """
        if self._is_time(trainer) and between_steps(trainer, batch_idx):
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save within an epoch if `every_seconds` have passed or a signal has arrived."""
        if trainer.sanity_checking or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if self._is_time(trainer) and not accumulates(trainer) and not will_stop(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the end of the epoch; Lightning calls checkpoint callbacks after all others."""
        if self.every_epoch or is_last_epoch(trainer) or self._is_time(trainer):
            self._save(trainer)

    def _is_time(self, trainer: L.Trainer) -> bool:
        due = time.monotonic() - self._saved_at >= self.every_seconds
        return self._any_process(trainer, due or self.signal is not None)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = time.monotonic()
        if self._any_process(trainer, self.signal is not None):
            raise Stopped(self.signal or signal.SIGTERM)

    def _any_process(self, trainer: L.Trainer, flag: bool) -> bool:
        """Return True if the flag is set in any process, because all processes save together."""
        if trainer.world_size == 1:
            return flag
        return trainer.strategy.reduce_boolean_decision(flag, all=False)

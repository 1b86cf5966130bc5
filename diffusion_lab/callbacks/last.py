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
from diffusion_lab.signals import SIGNALS, Stopped

log = logging.getLogger(__name__)


def between_steps(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a run saved after this batch can be taken up again as if it had not been.

    Not while gradients are gathered over batches, and not before a validation that is due: it would
    be left out. An epoch's end always is such a place.
    """
    done = batch_idx + 1
    every = trainer.val_check_batch
    return (
        done % trainer.accumulate_grad_batches == 0
        and done < trainer.num_training_batches
        and not (isinstance(every, int) and done % every == 0)
        and not trainer.should_stop
    )


def is_last_epoch(trainer: L.Trainer) -> bool:
    """Whether training ends with the epoch that is ending, as far as is known by now."""
    steps, epochs = trainer.max_steps, trainer.max_epochs or -1
    return (
        trainer.should_stop
        or 0 < steps <= trainer.global_step
        or 0 < epochs <= trainer.current_epoch + 1
    )


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
        due = time.monotonic() - self._saved_at >= self.every_seconds
        if self._agreed(trainer, due or self.signal is not None) and between_steps(
            trainer, batch_idx
        ):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save; of all callbacks this is the last."""
        self._save(trainer)

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

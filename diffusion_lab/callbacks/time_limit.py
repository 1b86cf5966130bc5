"""Time limit of a training (trainer.max_time)."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from diffusion_lab.system.lightning import accumulates


class TimeLimit(Timer):
    """Stop training after `seconds`, but never in the middle of gradient accumulation.

    Extends Lightning's Timer. A resumed run counts the time up to its checkpoint too. `clock`
    returns the current time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(timedelta(seconds=seconds))
        self._clock = clock
        self._before = 0.0  # seconds of earlier starts
        self._began: float | None = None
        self._ended: float | None = None

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint, the same as that of Lightning's Timer."""
        return Timer.__qualname__

    def time_elapsed(self, stage: str = "train") -> float:
        """Return the seconds of training, including earlier starts of a resumed run.

        For a `stage` other than "train", Lightning's Timer measures the time.
        """
        if stage != "train":
            return super().time_elapsed(stage)
        if self._began is None:
            return self._before
        return self._before + (self._clock() if self._ended is None else self._ended) - self._began

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._began, self._ended = self._clock(), None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._ended = self._clock()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Check the limit after an optimizer step, so that no accumulated gradient is lost."""
        if not accumulates(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seconds of training before the checkpoint."""
        super().load_state_dict(state_dict)
        self._before = state_dict.get("time_elapsed", {}).get("train", 0.0)

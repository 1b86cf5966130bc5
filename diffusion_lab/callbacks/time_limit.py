"""The end of a training by the clock."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from diffusion_lab.system.lightning import accumulates


class TimeLimit(Timer):
    """Lightning's Timer with a clock of its choice; it lets a group of accumulated batches end.

    The time of all turns of a run counts, from the first step of each to what it saved last.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(timedelta(seconds=seconds))
        self._clock = clock
        self._before = 0.0  # seconds of earlier turns
        self._began: float | None = None
        self._ended: float | None = None

    @property
    def state_key(self) -> str:
        """That of Lightning's, which checkpoints have had since before this class."""
        return Timer.__qualname__

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds of training; of other stages Lightning's own."""
        if stage != "train":
            return super().time_elapsed(stage)
        if self._began is None:
            return self._before
        return self._before + (self._clock() if self._ended is None else self._ended) - self._began

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._began, self._ended = self._clock(), None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it."""
        self._ended = self._clock()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Look at it where no gradient would be lost."""
        if not accumulates(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the time of a checkpoint."""
        super().load_state_dict(state_dict)
        self._before = state_dict.get("time_elapsed", {}).get("train", 0.0)

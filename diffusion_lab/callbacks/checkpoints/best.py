"""Lightning's callbacks that go by a metric, which look at each figure of it once.

`trainer.callback_metrics` keeps a metric until it is measured again. `val/fid` is not measured in
every epoch: an old figure says nothing of the new weights, and would count as no improvement.
"""

import lightning as L

from diffusion_lab.callbacks.samples.fid import FID, FIDEstimate
from diffusion_lab.system.lightning import CheckpointHooks, EarlyStoppingHooks, callbacks_of

TRAIN_LOSS = "train/loss_epoch"
_AT_EPOCH_END = (FID, TRAIN_LOSS)
"""Metrics that are measured at the end of an epoch, wherever the validations are."""


def _is_new(trainer: L.Trainer) -> bool:
    return any(fid.is_new(trainer) for fid in callbacks_of(trainer, FIDEstimate))


class ModelCheckpoint(CheckpointHooks):
    """Lightning's; a metric of an epoch's end is looked at there, whenever validation is."""

    def is_stale(self, trainer: L.Trainer) -> bool:
        """Return True if the monitored FID is an old one."""
        return self.monitor == FID and not _is_new(trainer)

    def saves_at_epoch_end(self) -> bool:
        """Return True for a metric that is measured there."""
        return self.monitor in _AT_EPOCH_END


class EarlyStopping(EarlyStoppingHooks):
    """Lightning's; its patience counts epochs' ends for a metric of those, estimates for FID."""

    def is_stale(self, trainer: L.Trainer) -> bool:
        """Return True if the monitored FID is an old one."""
        return self.monitor == FID and not _is_new(trainer)

    def checks_at_epoch_end(self) -> bool:
        """Return True for a metric that is measured there."""
        return self.monitor in _AT_EPOCH_END

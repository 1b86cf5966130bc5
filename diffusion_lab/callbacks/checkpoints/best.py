"""Lightning's ModelCheckpoint and EarlyStopping, which use each value of a metric only once.

`trainer.callback_metrics` keeps a metric until it is measured again. `val/fid` is not measured in
every epoch: an old value does not describe the new weights, and would count as no improvement.
"""

import lightning as L

from diffusion_lab.callbacks.samples.fid import FID, FIDEstimate
from diffusion_lab.system.lightning import CheckpointHooks, EarlyStoppingHooks, callbacks_of

TRAIN_LOSS = "train/loss_epoch"
_AT_EPOCH_END = (FID, TRAIN_LOSS)
"""Metrics measured at the end of an epoch, independent of when validation runs."""


def _is_new(trainer: L.Trainer) -> bool:
    return any(fid.is_new(trainer) for fid in callbacks_of(trainer, FIDEstimate))


class ModelCheckpoint(CheckpointHooks):
    """Lightning's ModelCheckpoint; reads an end-of-epoch metric at the end of the epoch.

    Lightning's own would read it after validation, which may run at another time.
    """

    def is_stale(self, trainer: L.Trainer) -> bool:
        """Return True if the monitored FID was measured on earlier weights."""
        return self.monitor == FID and not _is_new(trainer)

    def saves_at_epoch_end(self) -> bool:
        """Return True for a metric that is measured at the end of an epoch."""
        return self.monitor in _AT_EPOCH_END


class EarlyStopping(EarlyStoppingHooks):
    """Lightning's EarlyStopping; `patience` counts epochs for end-of-epoch metrics.

    For FID it counts estimates.
    """

    def is_stale(self, trainer: L.Trainer) -> bool:
        """Return True if the monitored FID was measured on earlier weights."""
        return self.monitor == FID and not _is_new(trainer)

    def checks_at_epoch_end(self) -> bool:
        """Return True for a metric that is measured at the end of an epoch."""
        return self.monitor in _AT_EPOCH_END

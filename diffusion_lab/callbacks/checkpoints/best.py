"""ModelCheckpoint and EarlyStopping that ignore an FID measured on earlier weights.

Lightning keeps a metric in `trainer.callback_metrics` until it is measured again, but `val/fid` is
not measured in every epoch. An old FID does not describe the new weights, and would count as an
epoch without improvement.
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
    """Lightning's ModelCheckpoint, also for the metrics that are measured at the end of an epoch.

    These metrics, `val/fid` and `train/loss_epoch`, are read when the epoch ends. Lightning's own
    class would read them after validation, which may run at another time.
    """

    def is_stale(self, trainer: L.Trainer) -> bool:
        """Return True if the monitored FID was measured on earlier weights."""
        return self.monitor == FID and not _is_new(trainer)

    def saves_at_epoch_end(self) -> bool:
        """Return True if the monitored metric is measured at the end of an epoch."""
        return self.monitor in _AT_EPOCH_END


class EarlyStopping(EarlyStoppingHooks):
    """Lightning's EarlyStopping, also for the metrics that are measured at the end of an epoch.

    `patience` counts epochs for `train/loss_epoch`, estimates for `val/fid`, and validations for
    other metrics.
    """

    def is_stale(self, trainer: L.Trainer) -> bool:
        """Return True if the monitored FID was measured on earlier weights."""
        return self.monitor == FID and not _is_new(trainer)

    def checks_at_epoch_end(self) -> bool:
        """Return True if the monitored metric is measured at the end of an epoch."""
        return self.monitor in _AT_EPOCH_END

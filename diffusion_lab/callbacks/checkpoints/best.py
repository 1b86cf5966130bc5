"""Lightning's callbacks that go by a metric, which look at each figure of it once.

`trainer.callback_metrics` keeps a metric until it is measured again. `val/fid` is not measured in
every epoch: an old figure says nothing of the new weights, and would count as no improvement.
"""

import lightning as L
from lightning.pytorch import callbacks

from diffusion_lab.callbacks.samples.fid import FID, FIDEstimate
from diffusion_lab.system.lightning import callbacks_of

TRAIN_LOSS = "train/loss_epoch"
_AT_EPOCH_END = (FID, TRAIN_LOSS)
"""Metrics that are measured at the end of an epoch, wherever the validations are."""


def _is_new(trainer: L.Trainer) -> bool:
    return any(fid.is_new(trainer) for fid in callbacks_of(trainer, FIDEstimate))


# Lightning has no public way to put a look off: the two questions that it asks itself are answered


class ModelCheckpoint(callbacks.ModelCheckpoint):
    """Lightning's; a metric of an epoch's end is looked at there, whenever validation is."""

    def _should_skip_saving_checkpoint(self, trainer: L.Trainer) -> bool:
        stale = self.monitor == FID and not _is_new(trainer)
        return stale or super()._should_skip_saving_checkpoint(trainer)

    def _should_save_on_train_epoch_end(self, trainer: L.Trainer) -> bool:
        return self.monitor in _AT_EPOCH_END or super()._should_save_on_train_epoch_end(trainer)


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's; its patience counts epochs' ends for a metric of those, estimates for FID."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Look where the metric is measured."""
        if self.monitor in _AT_EPOCH_END:
            self._check_on_train_epoch_end = True
        super().setup(trainer, pl_module, stage)

    def _should_skip_check(self, trainer: L.Trainer) -> bool:
        stale = self.monitor == FID and not _is_new(trainer)
        return stale or super()._should_skip_check(trainer)

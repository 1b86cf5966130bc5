"""Warn before a training that will not write best.ckpt."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from diffusion_lab.callbacks import EarlyStopping
from diffusion_lab.config.limits import seconds_of
from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)


def check_best(
    cfg: DictConfig, callbacks: Sequence[L.Callback], provenance: Mapping[str, Any], processes: int
) -> None:
    """Log a warning if no best.ckpt will be written, with the reason.

    Raises UserError if early stopping monitors val/loss, but validation will never run.
    """
    num_batches = _num_batches(cfg, provenance["num_train"], processes)
    why = why_no_validation(cfg, num_batches, provenance["num_val"])
    if why and cfg.monitor == "val/loss" and any(isinstance(c, EarlyStopping) for c in callbacks):
        raise UserError(
            f"early stopping uses monitor={cfg.monitor}, but {why}: type for example "
            "monitor=train/loss_epoch, or callbacks.early_stopping=null"
        )
    if why := why_no_best(cfg, callbacks, why):
        rank_zero_only(log.warning)("no best.ckpt will be written: %s", why)
        # Lightning would repeat this warning at the end of every epoch
        warnings.filterwarnings(
            "ignore", message=r".*'val/loss'.* could not find the monitored key"
        )


def why_no_best(
    cfg: DictConfig, callbacks: Sequence[L.Callback], no_validation: str | None
) -> str | None:
    """Return the reason why best.ckpt will not be written; None if it may be written.

    None also for a training that saves no checkpoints at all. `no_validation` is the result of
    `why_no_validation`.
    """
    if cfg.trainer.fast_dev_run or not any(isinstance(c, Checkpoint) for c in callbacks):
        return None
    if not any(isinstance(c, ModelCheckpoint) and c.monitor is not None for c in callbacks):
        return "no callback saves it, because callbacks.best is turned off or has no monitor"
    if cfg.monitor != "train/loss":
        return no_validation if cfg.monitor == "val/loss" else None
    # monitored at every validation, or at the end of an epoch if Lightning expects no validation
    trainer = cfg.trainer
    at_epoch_end = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval in (
        None,
        1.0,
    )
    return None if at_epoch_end else no_validation


def why_no_validation(cfg: DictConfig, num_batches: int, num_val: int) -> str | None:
    """Return the reason why validation will never run; None if it may run.

    `num_batches` is the number of training batches per epoch, `num_val` the number of validation
    images.
    """
    trainer = cfg.trainer
    for name, amount in (
        ("trainer.limit_val_batches", trainer.limit_val_batches),
        ("data.val_size", num_val),
    ):
        if amount == 0:
            return f"{name}=0 leaves no validation images"
    epochs, every = trainer.max_epochs, trainer.check_val_every_n_epoch
    if every is not None and epochs is not None and 0 < epochs < every:
        return (
            f"trainer.check_val_every_n_epoch={every} exceeds trainer.max_epochs={epochs}, so "
            "there is no validation"
        )
    # a training that ends by one of these limits validates at its end
    ends_early = trainer.max_steps > 0 or seconds_of(trainer.max_time) is not None
    interval = trainer.val_check_interval
    if ends_early or every is not None or not isinstance(interval, int) or (epochs or -1) < 0:
        return None
    total = epochs * num_batches
    if interval <= total:
        return None
    return (
        f"trainer.val_check_interval={interval} exceeds the {total} batches of the training, "
        "so there is no validation"
    )


def _num_batches(cfg: DictConfig, num_train: int, processes: int) -> int:
    """Return the number of training batches per epoch in one process."""
    whole = math.ceil(math.ceil(num_train / processes) / cfg.data.batch_size)
    limit = cfg.trainer.overfit_batches or cfg.trainer.limit_train_batches
    if limit is None:
        return whole
    return int(whole * limit) if isinstance(limit, float) else min(whole, limit)

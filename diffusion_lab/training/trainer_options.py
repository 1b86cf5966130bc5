"""Check the options that Lightning's Trainer rejects late, by a traceback, or not at all."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import lightning as L
from omegaconf import DictConfig

from diffusion_lab.config.limits import seconds_of
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError

_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,  # all batches
}


def check_trainer_options(cfg: DictConfig) -> None:
    """Raise UserError for an option of the Trainer that is out of range."""
    for name, least in _LEAST.items():
        value = cfg.trainer.get(name)
        if value is not None and value < least:
            raise UserError(f"trainer.{name}={value}: expected a whole number, at least {least}")
    _check_interval(cfg.trainer.get("val_check_interval"))
    profiler = cfg.trainer.get("profiler")
    if profiler and not isinstance(profiler, str | DictConfig):
        raise UserError(f"trainer.profiler={profiler}: expected simple, advanced, pytorch or null")
    ends = (cfg.trainer.max_epochs, cfg.trainer.max_time)
    if ends == (None, None) and cfg.trainer.max_steps in (None, -1):
        raise UserError(
            "trainer.max_epochs=null leaves the end to Lightning, which takes 1,000 epochs: give a "
            "number, trainer.max_steps= or max_time=, or -1 for a training without end"
        )


def _check_interval(value: Any) -> None:
    """`trainer.val_check_interval`: batches, a fraction of an epoch or a time."""
    if value is None:
        return
    if isinstance(value, str | Mapping | DictConfig):
        with suppress(UserError):
            if seconds_of(value):
                return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (whole and value >= 1) or (isinstance(value, float) and 0 < value <= 1):
        return
    raise UserError(
        f"trainer.val_check_interval={value}: expected a number of batches, a fraction of an epoch "
        "between 0 and 1, or a time such as 00:00:02:00 for two minutes; "
        "trainer.limit_val_batches=0 is for no validation"
    )


def check_batches(
    trainer: L.Trainer, datamodule: ImageDataModule, num_pairs: int | None = None
) -> int:
    """Return the number of batches that an epoch trains on, if all options fit it.

    Raises UserError for one that does not. `num_pairs` is the number of reflow pairs that will
    take the place of the images.
    """
    found = datamodule.provenance
    images = {"train": int(found["num_train"]), "val": int(found["num_val"])}
    if num_pairs is not None:
        images = {"train": num_pairs - datamodule.val_size, "val": datamodule.val_size}
    limits = {"train": trainer.limit_train_batches, "val": trainer.limit_val_batches}
    used = {}
    for split, limit in limits.items():
        per_process = math.ceil(images[split] / trainer.world_size)
        there = math.ceil(per_process / datamodule.batch_size)
        used[split] = int(there * limit) if isinstance(limit, float) else min(there, limit)
        if there and limit and not used[split]:
            name = (
                "overfit_batches"
                if getattr(trainer, "overfit_batches", 0)
                else f"limit_{split}_batches"
            )
            raise UserError(
                f"trainer.{name}={limit} of {there} batches is none: give a number of batches, or "
                f"at least {math.ceil(1e4 / there) / 1e4}"
            )
    interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
    by_epoch = isinstance(interval, int) and every is not None and used["val"]
    if by_epoch and interval > used["train"]:
        raise UserError(
            f"trainer.val_check_interval={interval}: an epoch has {used['train']} batches; give at "
            "most that, or trainer.check_val_every_n_epoch=null to count on over the epochs"
        )
    return int(used["train"])


def limit_warning(trainer: L.Trainer, num_batches: int) -> str | None:
    """Warn that max_epochs ends the training before max_steps does; None where it does not."""
    epochs = trainer.max_epochs or -1
    steps = epochs * math.ceil(num_batches / trainer.accumulate_grad_batches)
    if epochs < 0 or trainer.max_steps <= steps:
        return None
    return (
        f"trainer.max_epochs={epochs} ends the training after {steps:,} steps, before "
        f"trainer.max_steps={trainer.max_steps}: type trainer.max_epochs=-1 to go by steps alone"
    )

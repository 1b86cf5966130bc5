"""Limits of a training (epochs, steps, time), and options that resume= may change. No torch."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from omegaconf import DictConfig

from diffusion_lab.errors import UserError

_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")

LIMITS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
MAY_CHANGE = (
    *LIMITS,
    "trainer.accelerator",
    "trainer.compile",
    "trainer.compile_mode",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "callbacks.finite_loss.skip",
    "callbacks.last.every_seconds",
    "callbacks.last.every_epoch",
    "callbacks.progress.seconds",
    "paths.data_dir",
    "data.data_dir",
    "data.path",
    "data.cache_dir",
    "data.on_device",
    "latents",
    "data.latents",
)
"""Options that may change when a run is resumed, because the experiment stays the same."""


def seconds_of(max_time: Any) -> float | None:
    """Return trainer.max_time in seconds; None for no limit.

    `max_time` is "DD:HH:MM:SS", or a mapping with arguments of datetime.timedelta. Raises UserError
    for anything else.
    """
    if max_time is None:
        return None
    if isinstance(max_time, str) and (match := _CLOCK.fullmatch(max_time.strip())):
        days, hours, minutes, seconds = map(int, match.groups())
        return timedelta(days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    if isinstance(max_time, Mapping):
        try:
            return timedelta(**max_time).total_seconds()
        except TypeError:
            pass
    raise UserError(
        f"trainer.max_time={max_time}: expected days:hours:minutes:seconds, two digits each, such "
        "as 00:00:02:00 for two minutes"
    )


def check_limits(cfg: DictConfig) -> None:
    """Raise UserError for training limits that Lightning rejects or that leave nothing to train."""
    seconds = seconds_of(cfg.trainer.max_time)
    if seconds is not None and seconds <= 0:
        raise UserError(
            f"trainer.max_time={cfg.trainer.max_time} leaves no time to train: type a time above 0"
        )
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if cfg.trainer[name] == 0:
            raise UserError(f"trainer.{name}=0 leaves nothing to train: type a number above 0")
    if (cfg.trainer.gradient_clip_val or 0) < 0:
        raise UserError(
            f"trainer.gradient_clip_val={cfg.trainer.gradient_clip_val}: expected a number above "
            "0, or null for no clipping"
        )


def check_an_end(cfg: DictConfig) -> None:
    """Raise UserError if the training has no limit of epochs, steps or time.

    Called if the learning-rate schedule needs the length of the training.
    """
    trainer = cfg.trainer
    if trainer.max_epochs == -1 and trainer.max_steps == -1 and trainer.max_time is None:
        raise UserError(
            "the learning-rate schedule needs the length of the training, but no limit is set: "
            "type trainer.max_time=, trainer.max_epochs= or trainer.max_steps=, or "
            "lr_scheduler=none"
        )

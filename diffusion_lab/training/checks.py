"""Check what was built: model, data and trainer must fit each other."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
from omegaconf import DictConfig

from diffusion_lab.callbacks import (
    FID,
    FIDEstimate,
    LossHistory,
)
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import NoiseSchedule, VESchedule
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.conditioning import Conditioning


def check_classes(cfg: DictConfig, datamodule: ImageDataModule) -> None:
    """Raise UserError where model and data do not have the same classes."""
    clusters, there = datamodule.clusters, datamodule.num_classes
    if clusters is not None and cfg.model.get("num_classes") is None:
        raise UserError(
            f"data.clusters={clusters} makes classes, and this model takes none: leave "
            f"it out, or add model.num_classes={clusters}"
        )
    if cfg.model.get("num_classes") not in (None, there):
        why = f"{cfg.data.name} has {there} classes"
        if clusters is not None:
            why = f"data.clusters={clusters} stands for the labels, null gives them back"
        raise UserError(
            f"model.num_classes={cfg.model.num_classes}: {why}, model.num_classes={there}"
        )


def check_guidance(cfg: DictConfig, module: DiffusionModule) -> Conditioning:
    """Guidance that the run samples with; UserError where the module cannot do it.

    The configuration of a run of before there was such a default has none.
    """
    scale, interval = cfg.get("guidance_scale", 1.0), cfg.get("guidance_interval")
    if scale != 1 and module.num_classes is None:
        raise UserError(
            f"guidance_scale={scale:g} needs classes, and this run has none: add "
            "model.num_classes=10 or data.clusters=64 model.num_classes=64, or take "
            "guidance_scale=1"
        )
    if scale != 1 and module.label_dropout == 0:
        raise UserError(
            f"guidance_scale={scale:g} needs an unconditional branch, but model.label_dropout=0 "
            "trains none: take model.label_dropout=0.1, or guidance_scale=1"
        )
    if scale == 1 and interval is not None:
        raise UserError("guidance_interval= changes nothing at guidance_scale=1: set that too")
    return Conditioning.of(module, None, scale, interval)


def check_monitored(
    cfg: DictConfig, callbacks: list[L.Callback], provenance: Mapping[str, Any]
) -> None:
    """Raise UserError for a run that watches a metric nobody measures."""
    metrics = ["train/loss"]
    if any(isinstance(c, LossHistory) for c in callbacks):
        metrics.append("train/loss_epoch")
    if provenance["num_val"]:
        metrics.append("val/loss")
    # a fast_dev_run leaves it out, and judges nothing
    if any(isinstance(c, FIDEstimate) for c in callbacks) or cfg.trainer.fast_dev_run:
        metrics.append(FID)
    watched = any(getattr(c, "monitor", None) is not None for c in callbacks)
    if watched and cfg.monitor not in metrics:
        why = "" if "val/loss" in metrics else ", and data.val_size=0 leaves nothing to validate on"
        if cfg.monitor == FID:
            why = " without callbacks=fid"
        raise UserError(f"monitor={cfg.monitor} is not measured{why}: choose from {metrics}")


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


def bias_warning(noise_schedule: NoiseSchedule, datamodule: ImageDataModule) -> str | None:
    """Warn that samples will be biased, as the path does not end in noise; None where it does."""
    if noise_schedule.signal_at_end <= 0.05:
        return None
    images = datamodule.value_range.encode(datamodule.pixels("train")[:1000])
    mean, std = images.mean().item(), images.std().item()
    longer = "sigma_max" if isinstance(noise_schedule, VESchedule) else "beta_end"
    return (
        f"the noise schedule ends at alpha = {noise_schedule.signal_at_end:.2g}, and sampling "
        "begins with pure noise: expect a mean pixel of about "
        f"{noise_schedule.sampled_mean(mean, std):.2f} in samples, where images have {mean:.2f}; "
        f"a larger noise_schedule.{longer} ends nearer to noise"
    )

"""Check that model, data and trainer fit each other."""

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
from diffusion_lab.data.latents.decoder import LatentDecoder
from diffusion_lab.data.shape import image_shape
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import NoiseSchedule
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.conditioning import Conditioning

_CLEAN = 0.1
"""Largest sigma / alpha at which an image counts as clean; EDM begins at 0.002."""


def check_network(config: Mapping[str, Any]) -> None:
    """Raise UserError for points (images of one pixel) and a network of this project for images."""
    data, network = config["data"], str(config["network"].get("_target_"))
    if ValueRange(data["value_range"]).is_pixels or image_shape(data)[1:] != (1, 1):
        return
    package, _, name = network.rpartition(".")
    if package.startswith("diffusion_lab.networks") and name != "MLP":
        raise UserError(
            f"{name} is a network for images, but data={data['name']} has points: type network=mlp"
        )


def check_classes(cfg: DictConfig, datamodule: ImageDataModule) -> None:
    """Raise UserError if model and data have different numbers of classes."""
    clusters, num_classes = datamodule.clusters, datamodule.num_classes
    if clusters is not None and cfg.model.get("num_classes") is None:
        raise UserError(
            f"data.clusters={clusters} makes classes, but the model is unconditional: leave out "
            f"data.clusters=, or type model.num_classes={clusters}"
        )
    if cfg.model.get("num_classes") not in (None, num_classes):
        if num_classes is None:
            raise UserError(
                f"model.num_classes={cfg.model.num_classes}: the images have no labels; leave out "
                "model.num_classes=, or type data.clusters="
                f"{cfg.model.num_classes} to make classes of similar images"
            )
        why = f"{cfg.data.name} has {num_classes} classes"
        if clusters is not None:
            why = f"data.clusters={clusters} replaces the labels (data.clusters=null keeps them)"
        raise UserError(
            f"model.num_classes={cfg.model.num_classes}: {why}; type "
            f"model.num_classes={num_classes}"
        )


def check_guidance(cfg: DictConfig, module: DiffusionModule) -> Conditioning:
    """Return the run's default labels and guidance; UserError if the module does not support them.

    Configurations saved before these options existed count as guidance_scale=1.
    """
    scale, interval = cfg.get("guidance_scale", 1.0), cfg.get("guidance_interval")
    if scale != 1 and module.num_classes is None:
        raise UserError(
            f"guidance_scale={scale:g} needs classes, but this model is unconditional: type for "
            "example model.num_classes=10 for labelled images, data.clusters=64 "
            "model.num_classes=64 for images without labels, or guidance_scale=1"
        )
    if scale != 1 and module.label_dropout == 0:
        raise UserError(
            f"guidance_scale={scale:g} needs an unconditional branch, but model.label_dropout=0 "
            "trains none: type for example model.label_dropout=0.1, or guidance_scale=1"
        )
    if scale == 1 and interval is not None:
        raise UserError(
            "guidance_interval= has no effect with guidance_scale=1: type for example "
            "guidance_scale=2, or leave out guidance_interval="
        )
    return Conditioning.of(module, None, scale, interval)


def check_monitored(
    cfg: DictConfig, callbacks: list[L.Callback], provenance: Mapping[str, Any]
) -> None:
    """Raise UserError if a callback monitors a metric that is never measured."""
    metrics = ["train/loss"]
    if any(isinstance(c, LossHistory) for c in callbacks):
        metrics.append("train/loss_epoch")
    if provenance["num_val"]:
        metrics.append("val/loss")
    # fast_dev_run leaves out the FID callback, and saves no checkpoint for which FID would count
    if any(isinstance(c, FIDEstimate) for c in callbacks) or cfg.trainer.fast_dev_run:
        metrics.append(FID)
    watched = any(getattr(c, "monitor", None) is not None for c in callbacks)
    if watched and cfg.monitor not in metrics:
        why = "" if "val/loss" in metrics else " (data.val_size=0 leaves no validation images)"
        if cfg.monitor == FID:
            why = " without callbacks=fid"
        raise UserError(f"monitor={cfg.monitor} is not measured{why}: choose from {metrics}")


def check_batches(
    trainer: L.Trainer, datamodule: ImageDataModule, num_pairs: int | None = None
) -> int:
    """Return the number of training batches per epoch, after checking the trainer's limits.

    `num_pairs` is the number of reflow pairs that will replace the images. Raises UserError for a
    limit that leaves no batch, or a validation interval that exceeds the epoch.
    """
    provenance = datamodule.provenance
    images = {"train": int(provenance["num_train"]), "val": int(provenance["num_val"])}
    if num_pairs is not None:
        num_val = datamodule.num_val(num_pairs)
        images = {"train": num_pairs - num_val, "val": num_val}
    limits = {"train": trainer.limit_train_batches, "val": trainer.limit_val_batches}
    used = {}
    for split, limit in limits.items():
        per_process = math.ceil(images[split] / trainer.world_size)
        total = math.ceil(per_process / datamodule.batch_size)
        used[split] = int(total * limit) if isinstance(limit, float) else min(total, limit)
        if total and limit and not used[split]:
            name = (
                "overfit_batches"
                if getattr(trainer, "overfit_batches", 0)
                else f"limit_{split}_batches"
            )
            raise UserError(
                f"trainer.{name}={limit} leaves none of {total} batches: expected a whole number "
                f"of batches, or a fraction of at least {math.ceil(1e4 / total) / 1e4}"
            )
    interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
    by_epoch = isinstance(interval, int) and every is not None and used["val"]
    if by_epoch and interval > used["train"]:
        raise UserError(
            f"trainer.val_check_interval={interval}: expected at most {used['train']}, because "
            f"an epoch has {used['train']} batches; type trainer.check_val_every_n_epoch=null to "
            "count batches across epochs"
        )
    return int(used["train"])


def limit_warning(trainer: L.Trainer, num_batches: int) -> str | None:
    """Return a warning if max_epochs ends the training before max_steps, else None."""
    epochs = trainer.max_epochs or -1
    steps = epochs * math.ceil(num_batches / trainer.accumulate_grad_batches)
    if epochs < 0 or trainer.max_steps <= steps:
        return None
    return (
        f"trainer.max_epochs={epochs} ends the training after {steps:,} steps, before "
        f"trainer.max_steps={trainer.max_steps}: type trainer.max_epochs=-1 to use max_steps alone"
    )


def start_warning(noise_schedule: NoiseSchedule) -> str | None:
    """Return a warning if the noise schedule does not begin at a clean image."""
    ratio = noise_schedule.min_ratio
    if ratio <= _CLEAN:
        return None
    return (
        f"the noise schedule begins at sigma / alpha = {ratio:.2g}, not near 0: samples can lack "
        "the details that this noise hides"
    )


def bias_warning(
    noise_schedule: NoiseSchedule, datamodule: ImageDataModule, settings: Mapping[str, Any]
) -> str | None:
    """Return a warning if the noise schedule does not end in pure noise, which biases samples.

    `settings` are those of the noise schedule's class.

    Latents are standardised, so that their mean is not biased.
    """
    if noise_schedule.signal_at_end <= 0.05 or isinstance(datamodule.value_range, LatentDecoder):
        return None
    images = datamodule.value_range.encode(datamodule.pixels("train")[:1000])
    mean, std = images.mean().item(), images.std().item()
    what = "pixel" if datamodule.value_range.is_pixels else "coordinate"
    longer = next((name for name in ("sigma_max", "beta_end") if name in settings), None)
    advice = (
        f"a larger noise_schedule.{longer} reduces this bias"
        if longer
        else "let alpha end nearer to 0 to reduce this bias"
    )
    biased = noise_schedule.sampled_mean(mean, std)
    return (
        f"the noise schedule ends at alpha = {noise_schedule.signal_at_end:.2g}, but sampling "
        f"starts from pure noise: expect a mean {what} of about {biased:.2f} in samples instead of "
        f"{mean:.2f}; {advice}"
    )

"""What is trained, the trainer and what hangs on it, from the configuration."""

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    Checkpoint,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.callbacks import (
    FID,
    CompiledNetwork,
    FIDEstimate,
    Figures,
    LossHistory,
    PostHocEMA,
    SampleGrid,
    StepLog,
    TimeLimit,
    ValidateAtTheEnd,
)
from diffusion_lab.callbacks.checkpoints.run_folder import RunFolder
from diffusion_lab.config.instantiate import build
from diffusion_lab.config.limits import seconds_of
from diffusion_lab.config.validate import OWN_KEYS
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs.checkpoint import SafeCheckpointIO
from diffusion_lab.sampling.conditioning import Guide
from diffusion_lab.system.device import check_gpu, why_no_gpu
from diffusion_lab.system.precision import forks
from diffusion_lab.training.low_overhead import NoProfiler

log = logging.getLogger(__name__)


def quieten_lightning() -> None:
    """Leave its warnings, drop what it says of itself."""
    for name in (  # they set their own level when they are imported
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.distributed",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.14
    # a run that is taken up again finds its own
    warnings.filterwarnings("ignore", message="Checkpoint directory .* not empty")
    # of the loaders for validation, where data.val_size=0 asks for none
    warnings.filterwarnings("ignore", message="Total length of `list`")
    # torch 2.9 of allow_tf32, which its own compiler still reads
    warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")


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


def build_model(cfg: DictConfig) -> DiffusionModule:
    """The module; UserError if its optimizer or the sampler of its pictures does not fit it."""
    module: DiffusionModule = build(cfg.model)
    channels_last = cfg.trainer.get("channels_last", "auto")
    if isinstance(channels_last, bool):
        module.lay_out(torch.channels_last if channels_last else torch.contiguous_format)
    elif channels_last != "auto":
        raise UserError(f"trainer.channels_last={channels_last}: expected auto, true or false")
    build(cfg.sampler).check(module.noise_schedule)
    check_guidance(cfg, module)
    try:
        module.make_optimizer(module.parameters())
    except (TypeError, ValueError, IndexError) as error:  # optimizer.betas=[0.9]
        raise UserError(f"optimizer: {error}") from error
    return module


def check_guidance(cfg: DictConfig, module: DiffusionModule) -> Guide:
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
    return Guide.of(module, None, scale, interval)


def build_trainer(cfg: DictConfig, callbacks: list[L.Callback], loggers: list[Logger]) -> L.Trainer:
    """The Trainer; UserError in one line for what it refuses."""
    profiler = {} if cfg.trainer.profiler else {"profiler": NoProfiler()}
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg.trainer, resolve=True))
    for name in OWN_KEYS["trainer"]:
        settings.pop(name, None)
    settings.pop("max_time")  # a callback has it
    try:
        trainer: L.Trainer = build(
            settings,
            callbacks=callbacks,
            logger=loggers,
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            plugins=[SafeCheckpointIO()],
            **profiler,
        )
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if cfg.trainer.accelerator in ("gpu", "cuda") and (why := why_no_gpu()):
            raise UserError(
                f"trainer.accelerator={cfg.trainer.accelerator}: {why}. Use "
                "trainer.accelerator=cpu, or auto for what this machine has."
            ) from error
        known = cfg.trainer.accelerator in ("auto", "cpu", "gpu", "cuda", "mps")
        if not known or "ccelerator" in reason.replace("auto accelerator", ""):
            reason += " Use trainer.accelerator=cpu, gpu or auto."
        raise UserError(f"trainer: {reason}") from error
    if not forks(cfg.trainer.strategy):
        check_gpu(trainer.strategy.root_device)
    if settings["precision"] == "16-mixed" != trainer.precision:
        log.warning("trainer.precision=16-mixed needs a GPU: this is %s", trainer.precision)
    return trainer


def build_callbacks(
    cfg: DictConfig, *, any_logger: bool, clock: Callable[[], float] = time.monotonic
) -> list[L.Callback]:
    """The callbacks in their order, without those that would have nothing to do.

    trainer.max_time goes by `clock`, in seconds.
    """
    # a node without a class holds an experiment's settings for a callback that is not there
    nodes = [node for node in (cfg.callbacks or {}).values() if node and "_target_" in node]
    callbacks = [build(node) for node in nodes]
    if any(isinstance(c, ModelCheckpoint) and c.save_weights_only for c in callbacks):
        raise UserError(
            "callbacks: save_weights_only=true would leave out what sample.py and resume= read: "
            "expected false"
        )
    if not any_logger:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
    if cfg.trainer.fast_dev_run:
        left_out = SampleGrid | Figures | PostHocEMA | FIDEstimate
        callbacks = [c for c in callbacks if not isinstance(c, left_out)]
    at_the_end = [ValidateAtTheEnd()] if cfg.trainer.max_steps > 0 else []
    seconds = seconds_of(cfg.trainer.max_time)
    limits = [] if seconds is None else [TimeLimit(seconds, clock)]
    return [RunFolder(cfg.paths.output_dir), *callbacks, *at_the_end, StepLog(), *limits]


def compiled_network(cfg: DictConfig) -> list[CompiledNetwork]:
    """The callback that trainer.compile asks for; UserError for a mode that would do nothing."""
    mode = cfg.trainer.get("compile_mode", "default")
    if cfg.trainer.get("compile"):
        return [CompiledNetwork(mode)]
    if mode != "default":
        raise UserError(
            f"trainer.compile_mode={mode} compiles nothing without trainer.compile=true"
        )
    return []


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

"""Build the module, the callbacks and the Trainer, each from its part of the configuration."""

import inspect
import logging
import time
import warnings
from collections.abc import Callable
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
from torch import nn

from diffusion_lab.callbacks import (
    CompiledNetwork,
    FIDEstimate,
    Figures,
    PendingMetrics,
    PostHocEMA,
    RandomState,
    ResumeState,
    SampleGrid,
    SaveConfig,
    StepLog,
    TimeLimit,
    ValidateAtTheEnd,
)
from diffusion_lab.callbacks.checkpoints.run_folder import RunFolder
from diffusion_lab.callbacks.hooks import check_hooks
from diffusion_lab.config.instantiate import build, build_part, no_class
from diffusion_lab.config.limits import seconds_of
from diffusion_lab.config.trusted import find_object
from diffusion_lab.config.validate import OWN_KEYS
from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.latents.decoder import range_of, sizes_of_latents
from diffusion_lab.data.shape import image_shape
from diffusion_lab.diffusion import NoiseSchedule, Prediction, Sampler, TimeSampling, Weighting
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.modules.contracts import check_contracts, check_range
from diffusion_lab.runs.checkpoint import SafeCheckpointIO
from diffusion_lab.system.device import check_gpu, why_no_gpu
from diffusion_lab.system.precision import forks
from diffusion_lab.training.checks import (
    check_guidance,
)

log = logging.getLogger(__name__)


def quieten_lightning() -> None:
    """Drop Lightning's info messages and some warnings that do not apply; keep other warnings."""
    for name in (  # these loggers set their own level when imported
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.distributed",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.14
    # a resumed run has its own checkpoints there
    warnings.filterwarnings("ignore", message="Checkpoint directory .* not empty")
    # an empty list of validation loaders, with data.val_size=0
    warnings.filterwarnings("ignore", message="Total length of `list`")
    # torch 2.9 deprecates allow_tf32, which its own compiler still reads
    warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")


_KINDS: dict[str, type] = {
    "network": nn.Module,
    "noise_schedule": NoiseSchedule,
    "prediction": Prediction,
    "weighting": Weighting,
    "time_sampling": TimeSampling,
    "augment": Augmentation,
}


def build_model(cfg: DictConfig) -> DiffusionModule:
    """Build the module and check its parts, its optimizer and the run's sampler.

    Raises UserError for the first part that does not fit.
    """
    for group, kind in _KINDS.items():
        if (node := cfg.get(group)) is None:
            continue
        if "_target_" not in node:
            raise no_class(group)
        named = find_object(node["_target_"])
        if inspect.isclass(named) and not issubclass(named, kind):
            raise UserError(
                f"{group}: {node['_target_']} is no {kind.__name__}: expected a subclass of "
                f"{kind.__name__}, see docs/extending.md"
            )
    with sizes_of_latents(cfg.data):
        module: DiffusionModule = build_part("model", cfg.model, DiffusionModule)
    channels_last = cfg.trainer.get("channels_last", "auto")
    if isinstance(channels_last, bool):
        module.lay_out(torch.channels_last if channels_last else torch.contiguous_format)
    elif channels_last != "auto":
        raise UserError(f"trainer.channels_last={channels_last}: expected auto, true or false")
    sampler: Sampler = build_part("sampler", cfg.sampler, Sampler)
    sampler.check(module.noise_schedule)
    value_range = range_of(cfg.data)
    check_range(sampler, value_range)
    if module.clipped_to is not None and not value_range.bounded:
        raise UserError(
            f"model.clipped_to={module.clipped_to.name}: these data have no black and white to "
            "clip to; leave it out"
        )
    if module.augment is not None and not value_range.bounded:
        raise UserError(
            "augment= transforms pixels, but these data are points or latents: leave out augment="
        )
    if not any(parameter.requires_grad for parameter in module.network.parameters()):
        raise UserError(
            "the network has no parameters to train: assign its layers to attributes in __init__, "
            "a list of layers as torch.nn.ModuleList"
        )
    if check_contracts(module, sampler, value_range.shape(image_shape(cfg.data))):
        _note_export(module)
    check_guidance(cfg, module)
    try:
        module.make_optimizer(module.parameters())
    except (TypeError, ValueError, IndexError) as error:  # optimizer.betas=[0.9]
        raise UserError(
            f"the optimizer cannot be built ({error}): correct the settings optimizer.<option>="
        ) from error
    return module


def _note_export(module: DiffusionModule) -> None:
    """Log the reason if scripts/export.py would reject a run of this module."""
    from diffusion_lab.export.folder import check_exportable  # imports diffusers' pipelines

    try:
        check_exportable(module)
    except UserError as error:
        log.info("this run can be sampled but not exported: %s", error)


def build_trainer(cfg: DictConfig, callbacks: list[L.Callback], loggers: list[Logger]) -> L.Trainer:
    """Build the Trainer; UserError with a one-line reason if Lightning rejects a setting."""
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg.trainer, resolve=True))
    for name in OWN_KEYS["trainer"]:
        settings.pop(name, None)
    settings.pop("max_time")  # TimeLimit takes its place
    try:
        trainer: L.Trainer = build(
            settings,
            callbacks=callbacks,
            logger=loggers,
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            plugins=[SafeCheckpointIO()],
        )
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if cfg.trainer.accelerator in ("gpu", "cuda") and (why := why_no_gpu()):
            raise UserError(
                f"trainer.accelerator={cfg.trainer.accelerator}: {why}. Use "
                "trainer.accelerator=cpu, or trainer.accelerator=auto for the best device of this "
                "machine."
            ) from error
        known = cfg.trainer.accelerator in ("auto", "cpu", "gpu", "cuda", "mps")
        if not known or "ccelerator" in reason.replace("auto accelerator", ""):
            reason += " Use trainer.accelerator=cpu, gpu or auto."
        raise UserError(f"trainer: {reason}") from error
    if not forks(cfg.trainer.strategy):
        check_gpu(trainer.strategy.root_device)
    if settings["precision"] == "16-mixed" != trainer.precision:
        log.warning("trainer.precision=16-mixed needs a GPU: using %s", trainer.precision)
    return trainer


def build_callbacks(
    cfg: DictConfig, *, any_logger: bool, clock: Callable[[], float] = time.monotonic
) -> list[L.Callback]:
    """Build the callbacks in the order that they run in, without those that would have no effect.

    `any_logger` is False for a run without loggers. `clock` returns seconds for trainer.max_time.
    Raises UserError for an object that is no callback, and for save_weights_only=true.
    """
    # a node without a class holds settings of an experiment for a callback that is turned off
    nodes = [node for node in (cfg.callbacks or {}).values() if node and "_target_" in node]
    callbacks = [build(node) for node in nodes]
    for callback in callbacks:
        if not isinstance(callback, L.Callback):
            raise UserError(
                f"callbacks: {type(callback).__module__}.{type(callback).__name__} is no "
                "lightning.Callback: expected a subclass of it, see docs/extending.md"
            )
        check_hooks(callback)
    if any(isinstance(c, ModelCheckpoint) and c.save_weights_only for c in callbacks):
        raise UserError(
            "callbacks: save_weights_only=true leaves out data that sample.py and resume= need: "
            "expected save_weights_only=false"
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


def saving_callbacks(
    config: dict[str, Any], provenance: dict[str, Any], was_finished: bool
) -> list[L.Callback]:
    """Return the callbacks that add configuration, random states and progress to checkpoints.

    `was_finished` is True if a finished run is resumed to train further.
    """
    return [
        SaveConfig(config, provenance),
        RandomState(),
        PendingMetrics(),
        ResumeState(was_finished),
    ]


def compiled_network(cfg: DictConfig) -> list[CompiledNetwork]:
    """Return the callback that compiles the network; an empty list without trainer.compile=true.

    Raises UserError for trainer.compile_mode= without trainer.compile=true.
    """
    mode = cfg.trainer.get("compile_mode", "default")
    if cfg.trainer.get("compile"):
        return [CompiledNetwork(mode)]
    if mode != "default":
        raise UserError(
            f"trainer.compile_mode={mode} has no effect without trainer.compile=true: type "
            "trainer.compile=true too, or leave out trainer.compile_mode="
        )
    return []

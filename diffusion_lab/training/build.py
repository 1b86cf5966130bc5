"""Build module, data, callbacks and Trainer from the configuration."""

from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from diffusion_lab.config.instantiate import build
from diffusion_lab.config.limits import check_an_end
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.mnist.files import SOURCES
from diffusion_lab.diffusion import Sampler
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.optim.lr_schedule import Constant
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.system.device import use_tf32
from diffusion_lab.training.best_checkpoint import check_best
from diffusion_lab.training.checks import (
    bias_warning,
    check_batches,
    check_classes,
    check_guidance,
    check_monitored,
    limit_warning,
    start_warning,
)
from diffusion_lab.training.components import (
    build_callbacks,
    build_model,
    build_trainer,
    compiled_network,
    quieten_lightning,
    saving_callbacks,
)
from diffusion_lab.training.initialization import InitialState, check_same_data
from diffusion_lab.training.loggers import build_loggers
from diffusion_lab.training.resume import Start


@dataclass
class Parts:
    """The objects of a training, built from its configuration."""

    module: DiffusionModule
    datamodule: ImageDataModule
    trainer: L.Trainer
    loggers: list[Logger]
    sampler: Sampler
    conditioning: Conditioning
    """Default labels and guidance for sampling."""
    warnings: list[str]


def build_parts(
    start: Start, initial: InitialState, clock: Callable[[], float], was_finished: bool
) -> Parts:
    """Build data, module, loggers, callbacks and Trainer, and check that they fit together.

    Loads the images; with teacher.run=, samples the teacher's pairs. `clock` returns seconds for
    trainer.max_time. `was_finished` is True if a finished run is resumed to train further. Raises
    UserError for the first mistake.
    """
    cfg = start.cfg
    prepare_process(cfg, new=start.checkpoint is None)
    compiles = compiled_network(cfg)
    datamodule: ImageDataModule = build(cfg.data)
    check_classes(cfg, datamodule)
    initial.check(cfg, datamodule)
    module = build_model(cfg)
    if not isinstance(module.lr_schedule, Constant):
        check_an_end(cfg)
    initial.load_into(module, cfg)
    loggers = build_loggers(cfg, start.first_step)
    callbacks = build_callbacks(cfg, any_logger=bool(loggers), clock=clock)
    trainer = build_trainer(cfg, callbacks, loggers)
    if trainer.global_rank > 0:  # processes must not sample the same noise
        states = np.random.SeedSequence((cfg.seed, trainer.global_rank)).generate_state(1)
        torch.manual_seed(int(states[0]))

    num_batches = load_data(start, initial, datamodule, module, trainer)
    check_monitored(cfg, callbacks, datamodule.provenance)
    check_best(cfg, callbacks, datamodule.provenance, trainer.world_size)
    saves = saving_callbacks(start.config, datamodule.provenance, was_finished)
    trainer.callbacks[:0] = [*compiles, *saves]  # type: ignore[attr-defined]
    warnings = [
        start_warning(module.noise_schedule),
        bias_warning(module.noise_schedule, datamodule, cfg.noise_schedule),
        limit_warning(trainer, num_batches),
    ]
    return Parts(
        module,
        datamodule,
        trainer,
        loggers,
        build(cfg.sampler),
        check_guidance(cfg, module),
        [warning for warning in warnings if warning],
    )


def load_data(
    start: Start,
    initial: InitialState,
    datamodule: ImageDataModule,
    module: DiffusionModule,
    trainer: L.Trainer,
) -> int:
    """Load the images, or the pairs of a teacher; return the number of batches per epoch.

    Raises UserError if a resumed run was trained on other images.
    """
    cfg = start.cfg
    datamodule.value_range.prepare(trainer.strategy.root_device)
    if start.checkpoint is not None:
        datamodule.value_range.use_record(start.checkpoint.content["data"])
    datamodule.prepare_data()
    datamodule.setup("fit")
    num_pairs = cfg.teacher.num_pairs if initial.pairs_file else None
    num_batches = check_batches(trainer, datamodule, num_pairs)
    initial.use_pairs(cfg, datamodule, module, trainer.strategy.root_device)
    if start.checkpoint is not None:
        check_same_data(start.checkpoint.content["data"], datamodule.provenance)
    source = datamodule.provenance["source"]
    if start.config["data"].get("source") == "auto" and source in SOURCES:
        start.config["data"]["source"] = source  # so that a resumed run uses the same images
    return num_batches


def prepare_process(cfg: DictConfig, *, new: bool) -> None:
    """Set threads, TF32, random seeds and the level of Lightning's messages.

    Only a `new` run takes `threads` from the configuration, because a resumed run keeps the number
    of threads of its checkpoint.
    """
    threads = cfg.get("threads")
    if threads is not None and new:
        torch.set_num_threads(threads)
    use_tf32(cfg.trainer.get("tf32", True))
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    quieten_lightning()

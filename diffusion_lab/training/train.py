"""A training run from its configuration to its folder."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from diffusion_lab.callbacks import (
    FiniteLoss,
    LossHistory,
    PendingMetrics,
    RandomState,
    ResumeState,
    SaveConfig,
)
from diffusion_lab.config.instantiate import build
from diffusion_lab.config.limits import check_an_end, check_limits
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.trusted import check_targets
from diffusion_lab.config.validate import check_config, check_keys, check_seed
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.dataset import SOURCES
from diffusion_lab.errors import Diverged, UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.optim.lr_schedule import Constant
from diffusion_lab.runs.newest_checkpoint import Resumed, newest_checkpoint
from diffusion_lab.runs.record import RunRecord
from diffusion_lab.runs.saved_config import check_same_run, write_config
from diffusion_lab.runs.state import check_new, has_saved
from diffusion_lab.sampling.description import planned
from diffusion_lab.system.device import gpu_name, gpu_settings_restored, use_tf32
from diffusion_lab.system.lightning import attached
from diffusion_lab.system.lock import locked
from diffusion_lab.system.precision import settled
from diffusion_lab.system.signals import Stopped, listening
from diffusion_lab.system.threads import check_threads, threads_restored
from diffusion_lab.training.best_checkpoint import check_best
from diffusion_lab.training.build import (
    build_callbacks,
    build_model,
    build_trainer,
    check_classes,
    check_guidance,
    check_monitored,
    compiled_network,
    quieten_lightning,
)
from diffusion_lab.training.continued_logs import log_pending
from diffusion_lab.training.initialization import check_same_data, read_beginning
from diffusion_lab.training.loggers import build_loggers, conclude, introduce, let_go
from diffusion_lab.training.low_overhead import leave_out_idle_hooks, look_for_no_gpu_twice
from diffusion_lab.training.resume import as_it_was, check_not_done, end_again, from_the_start
from diffusion_lab.training.summary import bias_warning, headline
from diffusion_lab.training.trainer_options import (
    check_batches,
    check_trainer_options,
    limit_warning,
)

log = logging.getLogger(__name__)


@dataclass
class TrainResult:
    """A finished run and the objects that made it."""

    module: DiffusionModule
    datamodule: ImageDataModule
    trainer: L.Trainer
    metrics: dict[str, float]
    run_dir: Path


def train(
    cfg: DictConfig,
    resume: bool = False,
    trust: Sequence[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Train as configured and leave everything in `paths.output_dir`.

    With `resume` go on there from its newest good checkpoint, as if it had never been stopped; from
    step 0 if it was stopped before the first. `trust` is for a configuration that a run folder
    brought, which may have been written by anybody: it may name the parts of this project, torch's
    optimizers, Lightning's trainer, callbacks and loggers, and what the packages in `trust` hold.
    None: it is the caller's own. `clock`, in seconds, is what trainer.max_time goes by.

    Raises UserError for a mistake in the configuration, before any training, and where another
    process uses the folder, Diverged, a UserError too, if the numbers of the training go bad, and
    Stopped after a signal. The folder's metrics.json says how the run ended, whatever happens.
    """
    run_dir = Path(cfg.paths.output_dir).absolute()
    with locked(run_dir), threads_restored(), gpu_settings_restored():
        return _recorded(cfg, run_dir, resume, trust, clock)


def _recorded(
    cfg: DictConfig,
    run_dir: Path,
    resume: bool,
    trust: Sequence[str] | None,
    clock: Callable[[], float],
) -> TrainResult:
    checkpoint, first_step = None, None
    if not resume:
        check_new(run_dir)
        check_same_run(cfg, run_dir)
    if not (resume and (run_dir / ".hydra" / "config.yaml").exists()):
        rank_zero_only(write_config)(run_dir, cfg)
    if resume and not has_saved(run_dir):
        cfg, first_step = from_the_start(cfg, run_dir), 0
    elif resume:
        checkpoint = newest_checkpoint(run_dir)
        first_step = checkpoint.content["global_step"]
        cfg = as_it_was(cfg, checkpoint.content)
        check_not_done(cfg, run_dir, checkpoint.content)
    cfg = settled(cfg)
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    if trust is not None:
        check_targets(config, trust)
    record = RunRecord(run_dir, config["command"]["overrides"], cfg.seed)
    if checkpoint is not None:
        record.go_on(checkpoint.path.stem, checkpoint.content["global_step"])
    write = rank_zero_only(record.write)
    write()
    try:
        with listening():
            result = _fit(cfg, config, record, checkpoint, first_step, clock)
    except (KeyboardInterrupt, Stopped):
        write(status="interrupted")
        raise
    except Diverged as error:
        write(status="diverged", error=str(error))
        raise
    except BaseException as error:
        write(status="failed", error=f"{type(error).__name__}: {error}")
        raise
    write(status="finished")
    return result


def _fit(
    cfg: DictConfig,
    config: dict[str, Any],
    record: RunRecord,
    checkpoint: Resumed | None,
    first_step: int | None,
    clock: Callable[[], float],
) -> TrainResult:
    check_keys(config, TrainConfig)
    if cfg.replay is not None:
        raise UserError("replay= trains nothing: type debug=replay replay=<run folder>/anomaly.pt")
    run_dir, taken_up = record.path.parent, checkpoint is not None
    beginning, config = read_beginning(cfg, config, run_dir, taken_up)
    check_config(config)
    check_limits(cfg)
    if not taken_up:  # a run keeps what it has been trained with
        check_trainer_options(cfg)
    check_seed(cfg.seed)
    threads = cfg.get("threads")  # runs of before it was there are taken up too
    check_threads(threads)
    if threads is not None and not taken_up:  # a run taken up keeps the number it had
        torch.set_num_threads(threads)
    use_tf32(cfg.trainer.get("tf32", True))
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    quieten_lightning()
    look_for_no_gpu_twice()

    compiles = compiled_network(cfg)
    datamodule: ImageDataModule = build(cfg.data)
    check_classes(cfg, datamodule)
    beginning.check(cfg, datamodule)
    module = build_model(cfg)
    if not isinstance(module.lr_schedule, Constant):
        check_an_end(cfg)
    beginning.load_into(module, cfg)
    loggers = build_loggers(cfg, first_step)
    callbacks = build_callbacks(cfg, any_logger=bool(loggers), clock=clock)
    trainer = build_trainer(cfg, callbacks, loggers)
    if trainer.global_rank > 0:  # processes must not draw the same noise
        states = np.random.SeedSequence((cfg.seed, trainer.global_rank)).generate_state(1)
        torch.manual_seed(int(states[0]))
    datamodule.prepare_data()
    datamodule.setup("fit")
    num_pairs = cfg.teacher.num_pairs if beginning.pairs_file else None
    num_batches = check_batches(trainer, datamodule, num_pairs)
    beginning.use_pairs(cfg, datamodule, module, trainer.strategy.root_device)
    if checkpoint is not None:
        check_same_data(checkpoint.content["data"], datamodule.provenance)
    found = datamodule.provenance["source"]
    if config["data"].get("source") == "auto" and found in SOURCES:
        config["data"]["source"] = found  # whoever reads the checkpoint finds the same
    saves = [SaveConfig(config, datamodule.provenance), RandomState(), PendingMetrics()]
    saves.append(ResumeState(record.was_finished))
    trainer.callbacks[:0] = [*compiles, *saves]  # type: ignore[attr-defined]
    leave_out_idle_hooks(attached(trainer, L.Callback))
    check_monitored(cfg, callbacks, datamodule.provenance)
    check_best(cfg, callbacks, datamodule.provenance, trainer.world_size)

    introduce(loggers, config, datamodule.provenance)
    _say(headline(module, datamodule.provenance, trainer))
    bias, limit = (
        bias_warning(module.noise_schedule, datamodule),
        limit_warning(trainer, num_batches),
    )
    for warning in filter(None, (bias, limit)):
        rank_zero_only(log.warning)(warning)
    guide, shape = check_guidance(cfg, module), datamodule.image_shape
    _say(f"samples by {planned(config['sampler'], build(cfg.sampler), [guide], module, shape)}")
    if checkpoint is not None:
        log_pending(trainer, checkpoint.content)
    try:
        with logging_redirect_tqdm():  # lines above the live bar, not in it
            trainer.fit(
                module,
                datamodule,
                ckpt_path=None if checkpoint is None else checkpoint.path,
                weights_only=True,
            )
    finally:
        _note(record, trainer, module, datamodule)
        let_go(loggers)
    metrics: dict[str, float] = record.content["metrics"]
    if checkpoint is not None and trainer.global_step == checkpoint.content["global_step"]:
        metrics = record.content["metrics"] = end_again(trainer, module, checkpoint.content)
    conclude(loggers, config, metrics, trainer.global_step)
    return TrainResult(module, datamodule, trainer, metrics, run_dir)


def _note(
    record: RunRecord, trainer: L.Trainer, module: DiffusionModule, datamodule: ImageDataModule
) -> None:
    """What training gave, also where it broke off."""
    losses = [loss for history in attached(trainer, LossHistory) for loss in history.epochs]
    measured = trainer.callback_metrics.items()
    record.content |= {
        # the learning rate there is that of the last step that was logged
        "metrics": {k: v.item() for k, v in measured if not k.startswith("lr")},
        "epoch_losses": losses,
        "data": datamodule.provenance,
        "parameters": sum(p.numel() for p in module.network.parameters()),
        "device": str(trainer.strategy.root_device),
        "gpu": gpu_name(trainer.strategy.root_device),
        "precision": trainer.precision,
        "steps": trainer.global_step,
    }
    for guard in attached(trainer, FiniteLoss):
        record.content["skipped_steps"] = guard.skipped
    for best in attached(trainer, ModelCheckpoint):
        if best.best_model_score is not None:
            record.content["best"] = {best.monitor: best.best_model_score.item()}


@rank_zero_only
def _say(text: str) -> None:
    log.info("%s", text)

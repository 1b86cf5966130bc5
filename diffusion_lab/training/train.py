"""Train from a configuration into a run folder: restore, check, build, fit, record."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from diffusion_lab.callbacks import FiniteLoss, LossHistory
from diffusion_lab.callbacks.hooks import told_in_a_line
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import Diverged
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs.record import RunRecord
from diffusion_lab.sampling.description import planned
from diffusion_lab.system.device import gpu_name, gpu_settings_restored
from diffusion_lab.system.lightning import callbacks_of
from diffusion_lab.system.lock import locked
from diffusion_lab.system.signals import Stopped, signal_handlers
from diffusion_lab.system.threads import threads_restored
from diffusion_lab.training.build import Parts, build_parts
from diffusion_lab.training.loggers import close, log_config, log_final_metrics, log_unlogged
from diffusion_lab.training.preflight import preflight
from diffusion_lab.training.resume import Start, rerun_train_end, restore
from diffusion_lab.training.summary import headline

log = logging.getLogger(__name__)


@dataclass
class TrainResult:
    """A finished run: module, data, trainer, final metrics and folder."""

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
    """Train as configured and write all results to `paths.output_dir`.

    Args:
        cfg: composed from configs/train.yaml, for example by `compose_config`.
        resume: continue from the folder's newest readable checkpoint as if training had never
            stopped; from step 0 if there is no checkpoint yet.
        trust: packages whose contents a configuration from an untrusted run folder may name,
            besides this project's parts, torch's optimizers, and Lightning's trainer, callbacks,
            loggers and profilers. None if the configuration is your own.
        clock: returns seconds, for trainer.max_time.

    Raises:
        UserError: for a mistake in the configuration, before any training, and if another process
            uses the folder.
        Diverged: if losses, gradients or weights are not finite; it is a UserError too.
        Stopped: after SIGINT or SIGTERM.

    metrics.json in the folder records how the run ended, also after an error.

    """
    run_dir = Path(cfg.paths.output_dir).absolute()
    with locked(run_dir), threads_restored(), gpu_settings_restored():
        start = restore(cfg, run_dir, resume, trust)
        with recorded(start) as record, signal_handlers():
            initial = preflight(start)
            parts = build_parts(start, initial, clock, record.was_finished)
            metrics = fit(start, parts, record)
    return TrainResult(parts.module, parts.datamodule, parts.trainer, metrics, run_dir)


@contextmanager
def recorded(start: Start) -> Iterator[RunRecord]:
    """Write metrics.json when a run starts, and add the run's status when it ends."""
    record = RunRecord(start.run_dir, start.config["command"]["overrides"], start.cfg.seed)
    if start.checkpoint is not None:
        record.mark_resumed(start.checkpoint.path.stem, start.checkpoint.content["global_step"])
    write = rank_zero_only(record.write)
    write()
    try:
        yield record
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


def fit(start: Start, parts: Parts, record: RunRecord) -> dict[str, float]:
    """Train, put the results into the record and return the final metrics."""
    trainer, module, checkpoint = parts.trainer, parts.module, start.checkpoint
    log_config(parts.loggers, start.config, parts.datamodule.provenance)
    log_line(headline(module, parts.datamodule.provenance, trainer))
    for warning in parts.warnings:
        rank_zero_only(log.warning)(warning)
    shape, config = parts.datamodule.value_shape, start.config["sampler"]
    log_line(f"samples by {planned(config, parts.sampler, [parts.conditioning], module, shape)}")
    if checkpoint is not None:
        log_unlogged(trainer, checkpoint.content)
    try:
        # log lines are printed above the progress bar
        with told_in_a_line(callbacks_of(trainer, L.Callback)), logging_redirect_tqdm():
            trainer.fit(
                module,
                parts.datamodule,
                ckpt_path=None if checkpoint is None else checkpoint.path,
                weights_only=True,
            )
    finally:
        record_results(record, parts)
        close(parts.loggers)
    metrics: dict[str, float] = record.content["metrics"]
    if checkpoint is not None and trainer.global_step == checkpoint.content["global_step"]:
        metrics = rerun_train_end(trainer, module, checkpoint.content)
        record.content["metrics"] = metrics
    log_final_metrics(parts.loggers, start.config, metrics, trainer.global_step)
    return metrics


def record_results(record: RunRecord, parts: Parts) -> None:
    """Put the results of training into the record, also those of an interrupted training."""
    trainer, module = parts.trainer, parts.module
    losses = [loss for history in callbacks_of(trainer, LossHistory) for loss in history.epochs]
    measured = trainer.callback_metrics.items()
    record.content |= {
        # without the learning rate, which is that of the last logged step
        "metrics": {k: v.item() for k, v in measured if not k.startswith("lr")},
        "epoch_losses": losses,
        "data": parts.datamodule.provenance,
        "parameters": sum(p.numel() for p in module.network.parameters()),
        "device": str(trainer.strategy.root_device),
        "gpu": gpu_name(trainer.strategy.root_device),
        "precision": trainer.precision,
        "steps": trainer.global_step,
    }
    for guard in callbacks_of(trainer, FiniteLoss):
        record.content["skipped_steps"] = guard.skipped
    for best in callbacks_of(trainer, ModelCheckpoint):
        if best.best_model_score is not None:
            record.content["best"] = {best.monitor: best.best_model_score.item()}


@rank_zero_only
def log_line(text: str) -> None:
    """Log a line in the first process only."""
    log.info("%s", text)

"""A training run from its configuration to its folder."""

import gc
import io
import logging
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import (
    Checkpoint,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from tqdm.contrib.logging import logging_redirect_tqdm

from diffusion_lab.callbacks import (
    Figures,
    LossHistory,
    SampleGrid,
    SaveConfig,
    ValidateAtTheEnd,
)
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.run.build import build
from diffusion_lab.run.check import check_config, check_keys, check_seed
from diffusion_lab.run.record import RunRecord
from diffusion_lab.schema import TrainConfig

log = logging.getLogger(__name__)

_COMPARED = (
    "data",
    "network",
    "noise_schedule",
    "prediction",
    "weighting",
    "time_sampling",
    "sampler",
    "optimizer",
    "lr_scheduler",
    "trainer",
)
_CHATTY = (  # they set their own level when they are imported
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.distributed",
)


@dataclass
class TrainResult:
    """A finished run and the objects that made it."""

    module: DiffusionModule
    datamodule: ImageDataModule
    trainer: L.Trainer
    metrics: dict[str, float]
    run_dir: Path


def train(cfg: DictConfig) -> TrainResult:
    """Train as configured and leave everything in `paths.output_dir`.

    Raises UserError for a mistake in the configuration, before any training. The folder's
    metrics.json says how the run ended, whatever happens.
    """
    run_dir = Path(cfg.paths.output_dir).absolute()
    if HydraConfig.initialized() and run_dir != Path(HydraConfig.get().runtime.output_dir):
        raise UserError("paths.output_dir follows the run: choose a folder with hydra.run.dir=")
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    record = RunRecord(run_dir, overrides, cfg.seed)
    write = rank_zero_only(record.write)
    write()
    saved = run_dir / ".hydra" / "config.yaml"
    if not saved.exists():  # composed in Python: Hydra has not written it
        saved.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, saved)
    interrupt_handler = signal.getsignal(signal.SIGINT)
    try:
        result = _fit(cfg, config, record)
    except KeyboardInterrupt:
        write(status="interrupted")
        raise
    except BaseException as error:
        write(status="failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        signal.signal(signal.SIGINT, interrupt_handler)  # Lightning leaves it ignored after Ctrl-C
    diverged = not np.isfinite(record.content["epoch_losses"]).all()
    if diverged:
        log.error("the loss is not a finite number any more: lower optimizer.lr")
    write(status="diverged" if diverged else "finished")
    return result


def _fit(cfg: DictConfig, config: dict[str, Any], record: RunRecord) -> TrainResult:
    check_keys(config, TrainConfig)
    check_config(config)
    check_seed(cfg.seed)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.14

    datamodule: ImageDataModule = build(cfg.data)
    module: DiffusionModule = build(cfg.model)
    build(cfg.sampler).check(module.noise_schedule)
    try:
        module.make_optimizer(module.parameters())
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {error}") from error
    loggers = _loggers(cfg)
    callbacks = _callbacks(cfg, bool(loggers))
    try:
        trainer: L.Trainer = build(
            cfg.trainer,
            callbacks=callbacks,
            logger=loggers,
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        )
    except Exception as error:
        raise UserError(_why_no_trainer(error)) from error
    if trainer.global_rank > 0:  # processes must not draw the same noise
        states = np.random.SeedSequence((cfg.seed, trainer.global_rank)).generate_state(1)
        torch.manual_seed(int(states[0]))
    datamodule.prepare_data()
    datamodule.setup("fit")
    trainer.callbacks.append(SaveConfig(config, datamodule.provenance))  # type: ignore[attr-defined]
    _check_there_is_work(cfg, callbacks, datamodule)

    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("config", f"```yaml\n{OmegaConf.to_yaml(config)}```")
            data = OmegaConf.to_yaml(datamodule.provenance)
            logger.experiment.add_text("data", f"```yaml\n{data}```")
        else:
            logger.log_hyperparams(config | {"provenance": datamodule.provenance})
    _report(_headline(cfg, module, datamodule, trainer))
    try:
        with logging_redirect_tqdm():  # lines above the live bar, not in it
            trainer.fit(module, datamodule)
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into exit(1)
            raise KeyboardInterrupt from None
        raise
    metrics = {k: v.item() for k, v in trainer.callback_metrics.items()}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # its own prefix: the curves stay as they are
            final = {f"final/{k}": v for k, v in metrics.items()}
            logger.log_hyperparams(compared(config), final)
            logger.finalize("success")
    losses = [loss for c in callbacks if isinstance(c, LossHistory) for loss in c.epochs]
    record.content |= {
        "metrics": metrics,
        "epoch_losses": losses,
        "data": datamodule.provenance,
        "parameters": sum(p.numel() for p in module.network.parameters()),
        "device": str(trainer.strategy.root_device),
        "steps": trainer.global_step,
    }
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
            record.content["best"] = {callback.monitor: callback.best_model_score.item()}
    return TrainResult(module, datamodule, trainer, metrics, record.path.parent)


def _callbacks(cfg: DictConfig, any_logger: bool) -> list[L.Callback]:
    # a node without a class holds an experiment's settings for a callback that is not there
    nodes = [node for node in (cfg.callbacks or {}).values() if node and "_target_" in node]
    callbacks = [build(node) for node in nodes]
    if not any_logger:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
    if cfg.trainer.fast_dev_run:
        callbacks = [c for c in callbacks if not isinstance(c, SampleGrid | Figures)]
    return [*callbacks, ValidateAtTheEnd()]


def compared(config: dict[str, Any]) -> dict[str, Any]:
    """What tells runs apart, flat, for the HPARAMS tab: a class by its name, no paths."""
    flat: dict[str, Any] = {"seed": config["seed"]}
    for group in ("model", *_COMPARED):
        flat[group] = config[group]["_target_"].rpartition(".")[2]
    if HydraConfig.initialized():  # the words that were typed say more than the classes
        choices = HydraConfig.get().runtime.choices
        flat |= {group: choices[group] for group in flat if group in choices}
    for group in _COMPARED:
        for key, value in config[group].items():
            if not key.startswith("_") and not key.endswith("_dir"):
                flat[f"{group}/{key}"] = value
    return flat


def _loggers(cfg: DictConfig) -> list[Logger]:
    if cfg.trainer.fast_dev_run:  # Lightning would not use them
        return []
    loggers = []
    for name, node in (cfg.logger or {}).items():
        if node is None:
            continue
        try:
            loggers.append(build(node))
        except Exception as error:
            if any(isinstance(e, ModuleNotFoundError) for e in (error, error.__cause__)):
                raise UserError(
                    f"logger={name} needs a package that is not installed: "
                    f"pip install 'diffusion-lab[{name}]'"
                ) from error
            raise
    return loggers


def _why_no_trainer(error: BaseException) -> str:
    reason = str(error.__cause__ or error).strip().splitlines()[0]
    if "ccelerator" in reason.replace("auto accelerator", "") or "backend" in reason:
        reason += " Use trainer.accelerator=cpu, or auto for what this machine has."
    return f"trainer: {reason}"


def _check_there_is_work(
    cfg: DictConfig, callbacks: list[L.Callback], data: ImageDataModule
) -> None:
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if cfg.trainer[name] == 0:
            raise UserError(f"trainer.{name}=0 leaves nothing to train: give a number above 0")
    metrics = ["train/loss"]
    if any(isinstance(c, LossHistory) for c in callbacks):
        metrics.append("train/loss_epoch")
    if data.provenance["num_val"]:
        metrics.append("val/loss")
    watched = any(getattr(c, "monitor", None) is not None for c in callbacks)
    if watched and cfg.monitor not in metrics:
        why = ", and data.val_size=0 leaves nothing to validate on" if len(metrics) < 3 else ""
        raise UserError(f"monitor={cfg.monitor} is not measured{why}: choose from {metrics}")


def _headline(
    cfg: DictConfig, module: DiffusionModule, data: ImageDataModule, trainer: L.Trainer
) -> str:
    parameters = sum(p.numel() for p in module.network.parameters())
    facts = data.provenance
    return (
        f"{type(module.network).__name__} with {parameters:,} parameters on "
        f"{trainer.strategy.root_device}; {facts['dataset']} ({facts['source']}), "
        f"{facts['num_train']:,} images to train on; run folder {cfg.paths.output_dir}"
    )


def summary(result: TrainResult, seconds: float) -> str:
    """A short table of what a run gave."""
    table = Table("what", "value", title="finished", title_justify="left")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.6g}")
    table.add_row("steps", f"{result.trainer.global_step:,}")
    table.add_row("seconds", f"{seconds:.1f}")
    for name in ("figures", "checkpoints"):
        if (result.run_dir / name).is_dir():
            table.add_row(name, str(result.run_dir / name))
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue().rstrip()


@rank_zero_only
def _report(text: str) -> None:
    log.info("%s", text)


def run_job(cfg: DictConfig) -> float | None:
    """The task of scripts/train.py: train, print a table and the run folder.

    Returns the monitored metric for a sweeper, None where it was not measured.
    """
    began = time.perf_counter()
    result = train(cfg)
    _report(summary(result, time.perf_counter() - began))
    value = result.metrics.get(cfg.monitor)
    rank_zero_only(print)(result.run_dir)
    # the jobs of a sweep share this process: leave no model behind in it
    del result
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return value

"""Restore a stopped run: its configuration, settings and newest checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.callbacks import FID, FIDEstimate
from diffusion_lab.config.limits import seconds_of
from diffusion_lab.config.trusted import check_targets
from diffusion_lab.errors import UserError, reason_of
from diffusion_lab.runs.checkpoint import Checkpoint
from diffusion_lab.runs.newest_checkpoint import Resumed, newest_checkpoint
from diffusion_lab.runs.saved_config import check_start, write_config
from diffusion_lab.runs.state import has_saved, read_record
from diffusion_lab.system.lightning import callbacks_of, finished_epochs
from diffusion_lab.system.precision import resolve_precision
from diffusion_lab.training.reflow import take_over

log = logging.getLogger(__name__)


@dataclass
class Start:
    """Start of a training: its configuration, and the checkpoint from which it resumes."""

    cfg: DictConfig
    config: dict[str, Any]
    """`cfg` resolved, as saved in checkpoints."""
    run_dir: Path
    checkpoint: Resumed | None = None
    """None if the training starts at step 0."""
    first_step: int | None = None
    """First step of a resumed run; None for a new run."""
    trust: Sequence[str] = ()
    """Packages whose classes a teacher's run folder may name."""


def restore(
    cfg: DictConfig, run_dir: Path, resume: bool, trust: Sequence[str] | None = None
) -> Start:
    """Check the run folder, write .hydra/config.yaml and read the checkpoint to resume from.

    With `trust`, a list of packages, the configuration may name only parts of this project and of
    these packages. Raises UserError if a new run would overwrite another, if a finished run has
    nothing left to train, and for a class that is not trusted.
    """
    checkpoint, first_step = None, None
    # trust= in a saved configuration was written by the folder's author, and is not used
    trusted = (cfg.get("trust") or ()) if trust is None else trust
    if not resume:
        check_start(cfg, run_dir)
    if not (resume and (run_dir / ".hydra" / "config.yaml").exists()):
        rank_zero_only(write_config)(run_dir, cfg)
    if resume and not has_saved(run_dir):
        cfg, first_step = restart_config(cfg, run_dir), 0
    elif resume:
        checkpoint = newest_checkpoint(run_dir)
        first_step = checkpoint.content["global_step"]
        cfg = restore_config(cfg, checkpoint.content)
        check_not_done(cfg, run_dir, checkpoint.content)
    cfg = resolve_precision(cfg)
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    if trust is not None:
        check_targets(config, trust)
    return Start(cfg, config, run_dir, checkpoint, first_step, trusted)


def restart_config(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """Return the configuration to restart, at step 0, a run that saved no checkpoint.

    The recorded overrides and options are read from the run's .hydra folder.
    """
    log.info("no checkpoint was saved yet: starting at step 0")
    if not OmegaConf.is_interpolation(cfg.command, "overrides"):  # composed in Python
        return cfg
    try:
        overrides = OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")
        hydra = OmegaConf.load(run_dir / ".hydra" / "hydra.yaml")
        cfg.command = {"overrides": overrides, "choices": hydra.hydra.runtime.choices}
    except Exception as error:  # any error of the YAML parser
        raise UserError(
            f"{run_dir / '.hydra'} cannot be read ({reason_of(error)}): start a new run"
        ) from error
    return cfg


def check_not_done(cfg: DictConfig, run_dir: Path, content: Checkpoint) -> None:
    """Raise UserError if a run is finished and has reached a limit such as trainer.max_steps."""
    if read_record(run_dir).get("status") != "finished":
        return
    epochs = finished_epochs(content["loops"]["fit_loop"])
    seconds = content["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train", 0.0)
    done = (
        ("trainer.max_epochs", epochs, cfg.trainer.max_epochs),
        ("trainer.max_steps", content["global_step"], cfg.trainer.max_steps),
        ("trainer.max_time", seconds, seconds_of(cfg.trainer.max_time)),
    )
    for name, reached, limit in done:
        if limit not in (None, -1) and reached >= limit:
            unit = " seconds" if name.endswith("time") else ""
            raise UserError(
                f"resume={run_dir} is finished: the run has reached {reached:g}{unit}, so {name}="
                f"{OmegaConf.select(cfg, name)} leaves nothing to train; type a higher {name}="
            )


def restore_settings(cfg: DictConfig, content: Checkpoint) -> DictConfig:
    """Restore threads, precision, recorded overrides and data source from a run's checkpoint.

    Precision and data source are restored only if they are "auto" in `cfg`.
    """
    torch.set_num_threads(content["threads"])
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = content["config"]["trainer"]["precision"]
    for key, value in content["config"]["command"].items():  # the node may have a type
        cfg.command[key] = value
    if cfg.data.get("source") == "auto":
        cfg.data.source = content["config"]["data"]["source"]
    return cfg


def restore_config(cfg: DictConfig, content: Checkpoint) -> DictConfig:
    """Restore the settings of a resumed run, including the parts of a pipeline or a teacher.

    The parts come from the checkpoint, so init_from= becomes null and the pipeline is not read
    again. Raises UserError if latents= was added or taken away.
    """
    cfg = restore_settings(cfg, content)
    encoded = "latents" in content["data"]
    if encoded != bool(cfg.data.get("latents")):
        kind, advice = ("latents", "name its VAE") if encoded else ("pixels", "leave it out")
        raise UserError(f"latents={cfg.data.latents}: this run was trained on {kind}: {advice}")
    if cfg.init_from is not None:
        cfg.init_from, cfg.network = None, content["config"]["network"]
    teacher = content["config"].get("teacher")
    if teacher is not None and teacher["run"] is not None:
        take_over(cfg, content["config"])
    return cfg


def rerun_train_end(
    trainer: L.Trainer, module: L.LightningModule, content: Checkpoint
) -> dict[str, float]:
    """Make the figures of a run that was stopped after its last step; return its final metrics."""
    for callback in callbacks_of(trainer, L.Callback):
        if type(callback).__module__.startswith("diffusion_lab."):  # Lightning's do nothing here
            callback.on_train_end(trainer, module)
    metrics: dict[str, float] = content["metrics"]
    for fid in callbacks_of(trainer, FIDEstimate):
        metrics[FID] = fid.estimates[-1][1]  # on_train_end may just have computed it
    return metrics

"""Taking up a run where it stopped: which words may be typed, which checkpoint is the newest good.

Imports no torch before the work begins: the command line asks here first.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.limits import seconds_of
from diffusion_lab.errors import UserError
from diffusion_lab.runs.state import read_record

if TYPE_CHECKING:
    import lightning as L

log = logging.getLogger(__name__)


def check_repeatable(folder: Path, max_time: Any) -> None:
    """Raise UserError for a run that went by the clock."""
    if max_time is not None:
        raise UserError(
            f"rerun={folder} went by the clock, trainer.max_time={max_time}, and would not make "
            "the same steps again: only runs with max_epochs or max_steps repeat"
        )


def from_the_start(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """The configuration of a run that was stopped before its first checkpoint, to begin again."""
    log.info("no checkpoint was saved yet: beginning at step 0")
    if not OmegaConf.is_interpolation(cfg.command, "overrides"):  # composed in Python
        return cfg
    try:
        overrides = OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")
        hydra = OmegaConf.load(run_dir / ".hydra" / "hydra.yaml")
        cfg.command = {"overrides": overrides, "choices": hydra.hydra.runtime.choices}
    except Exception as error:  # whatever a YAML parser makes of a broken file
        raise UserError(
            f"{run_dir / '.hydra'} cannot be read ({type(error).__name__}): start a new run"
        ) from error
    return cfg


def check_not_done(cfg: DictConfig, run_dir: Path, content: dict[str, Any]) -> None:
    """Raise UserError for a finished run of which the limits leave nothing to train."""
    if read_record(run_dir).get("status") != "finished":
        return
    from diffusion_lab.system.lightning import finished_epochs

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
                f"resume={run_dir} is finished: {name}={OmegaConf.select(cfg, name)} leaves "
                f"nothing to train, it had {reached:g}{unit}"
            )


def set_scene(cfg: DictConfig, content: dict[str, Any]) -> DictConfig:
    """The configuration with what only the first command line knew, its threads and precision."""
    import torch

    torch.set_num_threads(content["threads"])
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = content["config"]["trainer"]["precision"]
    for key, value in content["config"]["command"].items():  # the node may have a type
        cfg.command[key] = value
    if cfg.data.get("source") == "auto":
        cfg.data.source = content["config"]["data"]["source"]
    return cfg


def as_it_was(cfg: DictConfig, content: dict[str, Any]) -> DictConfig:
    """The same for a run that has started: its network and its weights are its own by now."""
    cfg = set_scene(cfg, content)
    if cfg.init_from is not None:
        cfg.init_from, cfg.network = None, content["config"]["network"]
    teacher = content["config"].get("teacher")
    if teacher is not None and teacher["run"] is not None:
        from diffusion_lab.training.reflow import take_over

        take_over(cfg, content["config"])
    return cfg


def end_again(
    trainer: "L.Trainer", module: "L.LightningModule", content: dict[str, Any]
) -> dict[str, float]:
    """What was left of a run that stopped after its last step: its pictures, its metrics."""
    from lightning import Callback

    from diffusion_lab.callbacks import FID, FIDEstimate
    from diffusion_lab.system.lightning import attached

    for callback in attached(trainer, Callback):
        if type(callback).__module__.startswith("diffusion_lab."):  # Lightning's leave nothing
            callback.on_train_end(trainer, module)
    metrics: dict[str, float] = content["metrics"]
    for fid in attached(trainer, FIDEstimate):  # it may be that only this end has made the last one
        metrics[FID] = fid.estimates[-1][1]
    return metrics

"""Taking up a run where it stopped: which words may be typed, which checkpoint is the newest good.

Imports no torch before the work begins: the command line asks here first.
"""

import json
import logging
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.errors import UserError
from diffusion_lab.run.grammar import quoted, unquoted
from diffusion_lab.run.limits import seconds_of
from diffusion_lab.run.newest_checkpoint import has_checkpoint
from diffusion_lab.run.saved_config import MAY_CHANGE, read_config

if TYPE_CHECKING:
    import lightning as L

log = logging.getLogger(__name__)

LIMITS = MAY_CHANGE[:3]


@dataclass
class SavedRun:
    """A run folder whose configuration is to be run again."""

    folder: Path
    config: DictConfig
    """As it was trained with, unresolved, and not to be trusted."""
    work_dir: Path
    """Where the work is to be done: the folder itself, or another."""
    words: list[str]
    """For Hydra."""
    trust: list[str]
    """Packages, besides this project's own parts, whose code the configuration may name."""
    notes: list[str]
    """A line where the folder's file says something else than its checkpoint."""


def resumed_run(words: Sequence[str]) -> SavedRun:
    """What resume= and the words typed with it stand for.

    Raises UserError for a folder that is none and for words that would change the experiment.
    """
    folder, others, trust = _split("resume", words)
    saved = read_config(folder)
    config = saved.config
    if _record(folder).get("status") == "finished" and not any(
        w.lstrip("+").startswith(LIMITS) for w in others
    ):
        given = [name for name in LIMITS if OmegaConf.select(config, name) not in (None, -1)]
        raise UserError(
            f"resume={folder} is finished: to train further raise its limit, "
            + " or ".join(f"{name}=" for name in given)
        )
    number = 1 + len(list((folder / ".hydra").glob("resumed_*")))
    job_words = _job_words(folder, f".hydra/resumed_{number}")
    return SavedRun(folder, config, folder, [*job_words, *others], trust, saved.notes)


def repeated_run(words: Sequence[str]) -> SavedRun:
    """The same for rerun=, which works in a new folder beside the first."""
    folder, others, trust = _split("rerun", words)
    if any("max_time" in w for w in others):
        raise UserError("rerun= repeats the same steps: leave out trainer.max_time=")
    saved = read_config(folder)
    config = saved.config
    check_repeatable(folder, OmegaConf.select(config, "trainer.max_time"))
    new = folder.with_name(f"{folder.name}_again_{secrets.token_hex(3)}")
    job_words = _job_words(new, ".hydra")
    return SavedRun(folder, config, new, [*job_words, *others], trust, saved.notes)


def check_repeatable(folder: Path, max_time: Any) -> None:
    """Raise UserError for a run that went by the clock."""
    if max_time is not None:
        raise UserError(
            f"rerun={folder} went by the clock, trainer.max_time={max_time}, and would not make "
            "the same steps again: only runs with max_epochs or max_steps repeat"
        )


def _split(command: str, words: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """The run folder named, the words for Hydra, which change nothing that matters, and trust=."""
    named = next(word for word in words if word.startswith(f"{command}="))
    # without "..", as Hydra will have it; a link stays one
    folder = Path(os.path.abspath(Path(unquoted(named.partition("=")[2])).expanduser()))  # noqa: PTH100
    if not (folder / ".hydra" / "config.yaml").is_file() and not has_checkpoint(folder):
        if (folder / "multirun.yaml").is_file():
            raise UserError(f"{named} is a sweep: {command}={folder}/0 takes its first job")
        raise UserError(
            f"{named} is no run folder: give one that holds .hydra/config.yaml, "
            f"{command}=logs/runs/<name>"
        )
    trusting = [word for word in words if word.startswith("trust=")]
    trust = [name for word in trusting for name in re.split(r"[\[\], ]+", word[6:]) if name]
    others = [word for word in words if word not in (named, *trusting)]
    if {word.partition("=")[0] for word in others} & {"resume", "rerun"}:
        raise UserError("give one of resume= and rerun=, and one run folder")
    for word in others:
        if word in ("-m", "--multirun"):
            raise UserError(f"{command}= takes up one run: leave out {word}")
        name, _, value = word.lstrip("+").partition("=")
        elsewhere = command == "resume" and Path(unquoted(value)) != folder
        written = name == "hydra.output_subdir" and value != "null"
        if written or (name == "hydra.run.dir" and elsewhere):
            raise UserError(
                f"{word}: {command}={folder} has its places in that folder: leave it out"
            )
        # Lightning starts the other processes of a run with words of Hydra's own
        if not word.lstrip("+").partition("=")[0].startswith((*MAY_CHANGE, "hydra.", "--")):
            raise UserError(
                f"{word} would make it another experiment: with {command}= may be typed "
                f"{', '.join(MAY_CHANGE)}; start a new run for the rest"
            )
    return folder, others, trust


def _job_words(folder: Path, config_dir: str) -> list[str]:
    """Where the job works, and its log as in configs/hydra."""
    return [
        f"hydra.run.dir={quoted(str(folder))}",
        f"hydra.output_subdir={config_dir}",
        "hydra.job.name=train",
        "hydra/job_logging=lab",
        "hydra/hydra_logging=none",
        f"paths.output_dir={quoted(str(folder))}",
    ]


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def has_saved(run_dir: Path) -> bool:
    """Whether a run got as far as its first checkpoint, or says that it ended."""
    return has_checkpoint(run_dir) or _record(run_dir).get("status") == "finished"


def check_new(run_dir: Path) -> None:
    """Raise UserError for a folder that holds a run which a new one would overwrite.

    Not for what SLURM put back into its queue: within SLURM Lightning goes on there by itself.
    """
    status = _record(run_dir).get("status")
    turns = any(run_dir.glob("hpc_ckpt_*.ckpt"))
    if (turns or has_saved(run_dir)) and not (turns and status != "finished" and _in_slurm()):
        raise UserError(
            f"{run_dir} holds a run already: resume={run_dir} goes on with it, a new one needs a "
            "folder of its own"
        )
    if status == "diverged":
        raise UserError(f"{run_dir} holds a run that diverged: a new one needs a folder of its own")


def _in_slurm() -> bool:
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    return SLURMEnvironment.detect()


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
    if _record(run_dir).get("status") != "finished":
        return
    from diffusion_lab.loop_state import finished_epochs

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
        from diffusion_lab.run.teacher import take_over

        take_over(cfg, content["config"])
    return cfg


def end_again(
    trainer: "L.Trainer", module: "L.LightningModule", content: dict[str, Any]
) -> dict[str, float]:
    """What was left of a run that stopped after its last step: its pictures, its metrics."""
    from lightning import Callback

    from diffusion_lab.attached import attached
    from diffusion_lab.callbacks import FID, FIDEstimate

    for callback in attached(trainer, Callback):
        if type(callback).__module__.startswith("diffusion_lab."):  # Lightning's leave nothing
            callback.on_train_end(trainer, module)
    metrics: dict[str, float] = content["metrics"]
    for fid in attached(trainer, FIDEstimate):  # it may be that only this end has made the last one
        metrics[FID] = fid.estimates[-1][1]
    return metrics

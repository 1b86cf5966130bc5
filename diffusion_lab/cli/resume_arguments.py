"""Parse the arguments of scripts/train.py with resume= or rerun=, without importing torch."""

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.limits import LIMITS, MAY_CHANGE
from diffusion_lab.config.override_syntax import quoted, unquoted
from diffusion_lab.errors import UserError
from diffusion_lab.runs.newest_checkpoint import has_checkpoint
from diffusion_lab.runs.saved_config import read_config
from diffusion_lab.runs.state import check_repeatable, read_record


@dataclass
class SavedRun:
    """A run to resume or to repeat, with its saved configuration."""

    folder: Path
    config: DictConfig
    """The unresolved configuration of the run, which may name untrusted classes."""
    work_dir: Path
    """Folder of the training: the run's own for resume=, a new one for rerun=."""
    words: list[str]
    """Overrides to pass to Hydra: the job's folder, logging, and the overrides that were typed."""
    trust: list[str]
    """Packages, besides this project, whose classes the configuration may name."""
    notes: list[str]
    """Warnings about differences between .hydra/config.yaml and the checkpoint."""


def resumed_run(words: Sequence[str]) -> SavedRun:
    """Read the run that resume= names, and check the other arguments.

    Raises UserError if the folder holds no run, if the run is finished and no limit is raised, or
    if an override would change the experiment.
    """
    folder, others, trust = _split("resume", words)
    saved = read_config(folder)
    config = saved.config
    if read_record(folder).get("status") == "finished" and not any(
        w.lstrip("+").startswith(LIMITS) for w in others
    ):
        given = [name for name in LIMITS if OmegaConf.select(config, name) not in (None, -1)]
        if not given:
            raise UserError(
                f"resume={folder} was finished by a callback such as early stopping and has no "
                "limit to raise: start a new run with another criterion, for example "
                "callbacks.early_stopping.patience=20"
            )
        raise UserError(
            f"resume={folder} is finished: to train further, raise the run's limit, "
            + " or ".join(f"{name}=" for name in given)
        )
    number = 1 + len(list((folder / ".hydra").glob("resumed_*")))
    job_words = _job_words(folder, f".hydra/resumed_{number}")
    return SavedRun(folder, config, folder, [*job_words, *others], trust, saved.notes)


def repeated_run(words: Sequence[str]) -> SavedRun:
    """Read the run that rerun= names, check the other arguments and choose a folder for the repeat.

    The new folder is next to the run's. Raises UserError if the folder holds no run, if the run has
    a time limit, or if an override would change the experiment.
    """
    folder, others, trust = _split("rerun", words)
    if any("max_time" in w for w in others):
        raise UserError(
            "trainer.max_time= cannot be used with rerun=, because a repeated run has the same "
            "number of steps: leave out trainer.max_time="
        )
    saved = read_config(folder)
    config = saved.config
    check_repeatable(folder, OmegaConf.select(config, "trainer.max_time"))
    new = folder.with_name(f"{folder.name}_again_{secrets.token_hex(3)}")
    job_words = _job_words(new, ".hydra")
    return SavedRun(folder, config, new, [*job_words, *others], trust, saved.notes)


def _split(command: str, words: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """Split the arguments into the run folder, the overrides for Hydra and the names in trust=.

    `command` is "resume" or "rerun". Raises UserError for a folder without a run, and for an
    override that may not be changed.
    """
    named = next(word for word in words if word.startswith(f"{command}="))
    # without "..", as in Hydra; symbolic links are kept
    folder = Path(os.path.abspath(Path(unquoted(named.partition("=")[2])).expanduser()))  # noqa: PTH100
    if not (folder / ".hydra" / "config.yaml").is_file() and not has_checkpoint(folder):
        if (folder / "multirun.yaml").is_file():
            raise UserError(
                f"{named} is a sweep: type the folder of one job, for example {command}={folder}/0"
            )
        raise UserError(
            f"{named} is no run folder: type a folder with .hydra/config.yaml, for example "
            f"{command}=logs/runs/<name>"
        )
    trusting = [word for word in words if word.startswith("trust=")]
    trust = [name for word in trusting for name in re.split(r"[\[\], ]+", word[6:]) if name]
    others = [word for word in words if word not in (named, *trusting)]
    clashes = [word for word in others if word.partition("=")[0] in ("resume", "rerun")]
    if clashes:
        raise UserError(
            f"{' and '.join([named, *clashes])} cannot be combined: expected one resume= or rerun= "
            f"with one run folder; leave out {' '.join(clashes)}"
        )
    for word in others:
        if word in ("-m", "--multirun"):
            raise UserError(f"{command}= works with a single run, not a sweep: leave out {word}")
        name, _, value = word.lstrip("+").partition("=")
        elsewhere = command == "resume" and Path(unquoted(value)) != folder
        written = name == "hydra.output_subdir" and value != "null"
        if written or (name == "hydra.run.dir" and elsewhere):
            raise UserError(f"{word}: {command}={folder} sets the run folder; leave out {name}=")
        # Lightning starts the other processes of a run with overrides of hydra.*
        if not word.lstrip("+").partition("=")[0].startswith((*MAY_CHANGE, "hydra.", "--")):
            raise UserError(
                f"{word} cannot be changed with {command}=, because the run would become another "
                f"experiment; only these options can be changed: {', '.join((*MAY_CHANGE, 'trust'))}"
            )
    return folder, others, trust


def _job_words(folder: Path, config_dir: str) -> list[str]:
    """Return overrides that set the job's folder, and logging as in configs/hydra."""
    return [
        f"hydra.run.dir={quoted(str(folder))}",
        f"hydra.output_subdir={config_dir}",
        "hydra.job.name=train",
        "hydra/job_logging=lab",
        "hydra/hydra_logging=none",
        f"paths.output_dir={quoted(str(folder))}",
    ]

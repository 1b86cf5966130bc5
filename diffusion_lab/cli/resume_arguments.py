"""The arguments of resume= and rerun=. Imports no torch."""

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.override_syntax import quoted, unquoted
from diffusion_lab.errors import UserError
from diffusion_lab.runs.newest_checkpoint import has_checkpoint
from diffusion_lab.runs.saved_config import MAY_CHANGE, read_config
from diffusion_lab.runs.state import read_record

if TYPE_CHECKING:
    pass
from diffusion_lab.runs.state import check_repeatable

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
    if read_record(folder).get("status") == "finished" and not any(
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

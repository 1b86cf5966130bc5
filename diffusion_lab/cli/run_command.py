"""Run a command with Hydra, and report an error in one line."""

import logging
import os
import pkgutil
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from diffusion_lab.cli.arguments import bracket_lists, flags_first
from diffusion_lab.cli.early_checks import check_run_option
from diffusion_lab.cli.errors import cli_errors, fail, line_of
from diffusion_lab.cli.log_file import thread_failed
from diffusion_lab.cli.working_dir import back_to_typed
from diffusion_lab.config.resolvers import register
from diffusion_lab.config.search_path import CONFIG_DIR, warn_of_hidden_files
from diffusion_lab.errors import UserError
from diffusion_lab.system.lock import locked
from diffusion_lab.system.malloc import keep_freed_memory

log = logging.getLogger(__name__)


def reporting(work: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Return work(cfg); on an error print one line and exit.

    In a sweep the error is logged and raised instead, so that only this job ends.
    """
    try:
        return work(cfg)
    except Exception as error:
        if (line := line_of(error)) is None:
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            log.error("error: %s", line)
            raise
        fail(line, error)


def run_command(
    task: Callable[[DictConfig], Any], config_name: str, folder: Path | None = None
) -> None:
    """Compose the configuration and run the task with Hydra.

    `folder`, if given, is locked before anything is written.
    """
    register(config_name)
    keep_freed_memory()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing them
    threading.excepthook = thread_failed
    try:
        with cli_errors(), locked(folder) if folder else nullcontext():
            _check_folder(config_name)
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(
                task
            )()
    finally:
        from diffusion_lab.cli.sweep_summary import SweepSummary

        SweepSummary.write()
        HydraConfig.instance().cfg = None  # --cfg leaves it for the next command in this process


def _check_folder(config_name: str) -> None:
    """Raise UserError if hydra.run.dir= is typed for a command other than training."""
    if config_name not in ("train", "saved_run"):
        for word in sys.argv[1:]:
            name, _, folder = word.partition("=")
            if name.lstrip("+") == "hydra.run.dir":
                raise UserError(f"{word}: only train.py uses this option; type out={folder}")


def prepare_arguments(*lists: str, first: Callable[[Sequence[str]], list[str]] = list) -> None:
    """Bring sys.argv into the form that Hydra accepts.

    `first` is applied to the arguments before anything else. The options in `lists` accept lists
    without brackets, such as labels=0,1.
    """
    # a user asks for tracebacks by HYDRA_FULL_ERROR=1; run_command sets it for another reason, so a
    # variable of our own keeps the user's choice, also for processes that Lightning starts
    os.environ.setdefault("DIFFUSION_LAB_TRACEBACK", os.environ.get("HYDRA_FULL_ERROR") or "0")
    with cli_errors():
        words = flags_first(first(sys.argv[1:]))
    sys.argv[1:] = bracket_lists(words, lists, quotable=("runs", "images"))


def task_of(work: str) -> Callable[[DictConfig], None]:
    """Return a Hydra task that imports and calls `work`, "module:function", and prints its result.

    The task prints `result.lines`, and last `result.out`, the path of the results.
    """

    def task(cfg: DictConfig) -> None:
        back_to_typed()
        warn_of_hidden_files(HydraConfig.get().overrides.task)
        reporting(check_run_option, cfg)
        result = reporting(lambda cfg: pkgutil.resolve_name(f"diffusion_lab.{work}")(cfg), cfg)
        print(*result.lines, result.out, sep="\n")

    return task


def command(name: str, *lists: str, entry: str | None = None) -> Callable[[], None]:
    """Return the entry point of a command, a function that reads sys.argv.

    The options in `lists` accept lists without brackets, such as labels=0,1. `entry` is the module
    that defines the command's function, commands.<name> by default.
    """

    def command() -> None:
        prepare_arguments(*lists)
        run_command(task_of(f"{entry or f'commands.{name}'}:{name}"), name)

    return command

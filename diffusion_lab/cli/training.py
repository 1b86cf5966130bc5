"""Entry point of scripts/train.py, for a new run, resume= and rerun=."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusion_lab.cli.arguments import flags_first
from diffusion_lab.cli.early_checks import check_training
from diffusion_lab.cli.errors import cli_errors
from diffusion_lab.cli.output_folder import claimed, removed_if_rejected
from diffusion_lab.cli.resume_arguments import SavedRun, repeated_run, resumed_run
from diffusion_lab.cli.run_command import log, prepare_arguments, reporting, run_command
from diffusion_lab.cli.working_dir import paths_as_typed
from diffusion_lab.config.override_syntax import unquoted
from diffusion_lab.config.resolvers import register
from diffusion_lab.config.search_path import warn_of_hidden_files
from diffusion_lab.runs.state import check_new
from diffusion_lab.runs.sweep import job_folders
from diffusion_lab.system.lock import locked


def _train(cfg: DictConfig) -> float | None:
    warn_of_hidden_files(HydraConfig.get().overrides.task)
    if cfg.command.choices.debug == "replay":
        from diffusion_lab.commands.train import replay_job

        return reporting(replay_job, cfg)
    from diffusion_lab.commands.train import run_job

    return reporting(run_job, cfg)


def _in_own_folder(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wrap a training task: before the task, check the configuration and lock the run folder."""

    def run(cfg: DictConfig) -> Any:
        register("train")  # a job of a sweep may run in a process of its own
        cfg = paths_as_typed(cfg)
        with removed_if_rejected(), ExitStack() as held:
            if cfg.command.choices.debug != "replay":  # a replay needs only its file
                reporting(check_training, cfg)
            reporting(lambda cfg: held.enter_context(claimed(cfg)), cfg)
            return task(cfg)

    return run


def _saved(task: Callable[[DictConfig], Any], saved: SavedRun) -> None:
    """Run a task with the configuration of a saved run, instead of composing a new one.

    Hydra gets the saved configuration as a single ConfigStore node. If Hydra read a folder of saved
    config files, or a saved `hydra` node, it would run untrusted code.
    """
    typed = list(sys.argv)
    sys.argv[1:] = flags_first(saved.words)

    def with_what_was_typed(cfg: DictConfig) -> Any:
        sys.argv = typed  # Lightning starts further processes with these arguments
        for note in saved.notes:
            log.warning("%s", note)
        return task(paths_as_typed(cfg))

    ConfigStore.instance().store(name="saved_run", node=saved.config)
    run_command(with_what_was_typed, "saved_run", saved.work_dir)


def _resume() -> None:
    with cli_errors():
        saved = resumed_run(sys.argv[1:])

    def task(cfg: DictConfig) -> float | None:
        from diffusion_lab.commands.train import run_job

        return reporting(partial(run_job, resume=True, trust=saved.trust), cfg)

    _saved(task, saved)


def _rerun() -> None:
    with cli_errors():
        saved = repeated_run(sys.argv[1:])

    def task(cfg: DictConfig) -> None:
        from diffusion_lab.training.rerun import rerun

        differences = reporting(partial(rerun, saved.folder, trust=saved.trust), cfg)
        for line in differences[:10]:
            print(f"differs: {line}")
        if len(differences) > 10:
            print(f"differs: and in {len(differences) - 10} more places")
        print("not the same" if differences else "the same data, losses and weights, bit for bit")
        print(saved.work_dir)
        if differences:
            sys.exit(1)

    _saved(task, saved)


def train() -> None:
    """Run `diffusion-lab-train` (scripts/train.py): train a new run, or resume or repeat a run."""
    prepare_arguments()
    typed = {word.partition("=")[0]: word.partition("=")[2] for word in sys.argv[1:]}
    if "resume" in typed:
        _resume()
    elif "rerun" in typed:
        _rerun()
    else:
        # an existing folder may be in use or hold a run: check before anything is written
        many = {"-m", "--multirun"} & typed.keys()
        named = unquoted(typed.get("hydra.sweep.dir" if many else "hydra.run.dir", ""))
        existing = Path(named) if named and Path(named).is_dir() else None
        with cli_errors():
            for job in job_folders(existing) if existing and many else ():
                check_new(job)
            if existing and not many:
                with locked(existing):
                    check_new(existing)
        run_command(_in_own_folder(_train), "train", None if many else existing)

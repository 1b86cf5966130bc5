"""The commands: Hydra in front, one clear line for a mistake, the work imported when it begins."""

import logging
import os
import pkgutil
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion_lab import schema
from diffusion_lab.arguments import bracket_lists, flags_first, push_as_override, rung_overrides
from diffusion_lab.errors import UserError
from diffusion_lab.freed_memory import keep_freed_memory
from diffusion_lab.log_file import thread_failed
from diffusion_lab.run.grammar import unquoted
from diffusion_lab.run.lock import locked
from diffusion_lab.run.own_folder import claimed
from diffusion_lab.run.resume import SavedRun, check_new, repeated_run, resumed_run
from diffusion_lab.run.sweep import job_folders, tensorboard_name
from diffusion_lab.run.working_dir import back_to_typed, paths_as_typed
from diffusion_lab.told import fail, line_of, told

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
# a wheel carries the configs inside the package, a checkout has them beside it
CONFIG_DIR = next(p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir())


def register(command: str) -> None:
    """What a command's YAML files need to be composed; every job of a sweep calls it again."""
    schema.register(command)
    OmegaConf.register_new_resolver(
        "run_id", lambda: secrets.token_hex(3), use_cache=True, replace=True
    )
    OmegaConf.register_new_resolver("tensorboard_name", tensorboard_name, replace=True)


def _job(work: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Run a task. In a sweep a mistake ends only its own job: Hydra sees the exception."""
    try:
        return work(cfg)
    except Exception as error:
        if (line := line_of(error)) is None:
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            log.error("error: %s", line)
            raise
        fail(line, error)


def _main(task: Callable[[DictConfig], Any], config_name: str, folder: Path | None = None) -> None:
    """Compose the configuration and run the task, with `folder` locked before it is touched."""
    register(config_name)
    keep_freed_memory()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise what it would print
    threading.excepthook = thread_failed
    try:
        with told(), locked(folder) if folder else nullcontext():
            _check_folder(config_name)
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(
                task
            )()
    finally:
        from diffusion_lab.run.sweep import SweepSummary

        SweepSummary.write()


def _check_folder(config_name: str) -> None:
    """Trainings have Hydra's folder, all other commands their own."""
    if config_name not in ("train", "saved_run"):
        for word in sys.argv[1:]:
            name, _, folder = word.partition("=")
            if name.lstrip("+") == "hydra.run.dir":
                raise UserError(f"{word}: only train.py has such a folder; type out={folder}")


def _train(cfg: DictConfig) -> float | None:
    if cfg.command.choices.debug == "replay":
        from diffusion_lab.run.replay import replay_job

        return _job(replay_job, cfg)
    from diffusion_lab.run.train import run_job

    return _job(run_job, cfg)


def _in_own_folder(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """The task of a training, with its folder held and found to be free."""

    def run(cfg: DictConfig) -> Any:
        register("train")  # a job of a sweep may run in a process of its own
        cfg = paths_as_typed(cfg)
        with ExitStack() as held:
            _job(lambda cfg: held.enter_context(claimed(cfg)), cfg)
            return task(cfg)

    return run


def _saved(task: Callable[[DictConfig], Any], saved: SavedRun) -> None:
    """Run a task with the configuration that a run saved instead of composing one.

    Only that one file of the folder is read: Hydra would call what a folder of groups, or a `hydra`
    node, names.
    """
    typed = list(sys.argv)
    sys.argv[1:] = flags_first(saved.words)

    def with_what_was_typed(cfg: DictConfig) -> Any:
        sys.argv = typed  # what Lightning starts further processes with
        for note in saved.notes:
            log.warning("%s", note)
        return task(paths_as_typed(cfg))

    ConfigStore.instance().store(name="saved_run", node=saved.config)
    _main(with_what_was_typed, "saved_run", saved.work_dir)


def _resume() -> None:
    with told():
        saved = resumed_run(sys.argv[1:])

    def task(cfg: DictConfig) -> float | None:
        from diffusion_lab.run.train import run_job

        return _job(partial(run_job, resume=True, trust=saved.trust), cfg)

    _saved(task, saved)


def _rerun() -> None:
    with told():
        saved = repeated_run(sys.argv[1:])

    def task(cfg: DictConfig) -> None:
        from diffusion_lab.run.rerun import rerun

        found = _job(partial(rerun, saved.folder, trust=saved.trust), cfg)
        for line in found[:10]:
            print(f"differs: {line}")
        if len(found) > 10:
            print(f"differs: and in {len(found) - 10} more places")
        print("the same data, losses and weights, bit for bit" if not found else "not the same")
        print(saved.work_dir)
        if found:
            sys.exit(1)

    _saved(task, saved)


def _prepare(*lists: str, first: Callable[[Sequence[str]], list[str]] = list) -> None:
    """Bring sys.argv into the form that Hydra takes.

    `first` changes the arguments before anything else does; the values of the options `lists` need
    no brackets.
    """
    # whoever set HYDRA_FULL_ERROR=1 wants tracebacks, which processes that Lightning starts know
    # from the other name; set but empty, it is no wish
    os.environ.setdefault("DIFFUSION_LAB_TRACEBACK", os.environ.get("HYDRA_FULL_ERROR") or "0")
    with told():
        words = flags_first(first(sys.argv[1:]))
    sys.argv[1:] = bracket_lists(words, lists, quotable=("runs", "images"))


def _task(work: str) -> Callable[[DictConfig], None]:
    """What imports `work`, "module:function", when it begins, and prints what came of it.

    Of its result that is `lines`, and last `out`, the path of what it made.
    """

    def task(cfg: DictConfig) -> None:
        back_to_typed()
        made = _job(lambda cfg: pkgutil.resolve_name(f"diffusion_lab.run.{work}")(cfg), cfg)
        print(*made.lines, made.out, sep="\n")

    return task


def _command(name: str, *lists: str) -> Callable[[], None]:
    """`diffusion-lab-<name>`, scripts/<name>.py; the values of `lists` need no brackets."""

    def command() -> None:
        _prepare(*lists)
        _main(_task(f"{name}:{name}"), name)

    return command


benchmark = _command("benchmark", "parts")
compare = _command("compare", "runs", "metrics")
diagnose = _command("diagnose")
edit = _command("edit", "labels", "guidance_scale", "images")
evaluate = _command("evaluate", "labels", "seeds", "images", "guidance_interval")
likelihood = _command("likelihood")
sample = _command("sample", "labels", "guidance_scale", "guidance_interval")
tradeoff = _command("tradeoff", "samplers", "num_steps", "spacings", "labels", "seeds")
train_extractor = _command("train_extractor")


def train() -> None:
    """`diffusion-lab-train`, scripts/train.py."""
    _prepare()
    typed = {word.partition("=")[0]: word.partition("=")[2] for word in sys.argv[1:]}
    if "resume" in typed:
        _resume()
    elif "rerun" in typed:
        _rerun()
    else:
        # a folder that is there may be in use, or hold a run: that is known before it is touched
        many = {"-m", "--multirun"} & typed.keys()
        named = unquoted(typed.get("hydra.sweep.dir" if many else "hydra.run.dir", ""))
        there = Path(named) if named and Path(named).is_dir() else None
        with told():
            for job in job_folders(there) if there and many else ():
                check_new(job)
            if there and not many:
                with locked(there):
                    check_new(there)
        _main(_in_own_folder(_train), "train", None if many else there)


def export() -> None:
    """`diffusion-lab-export`, scripts/export.py."""
    _prepare(first=push_as_override)
    _main(_task("export:export"), "export")


def ladder() -> None:
    """`diffusion-lab-ladder`, scripts/ladder.py: words of train.yaml go to every rung."""
    from dataclasses import fields

    own = [f.name for f in fields(schema.LadderConfig) if f.name != "words"]
    _prepare("seeds")
    sys.argv[1:] = rung_overrides(sys.argv[1:], own)
    _main(_ladder, "ladder")


def _ladder(cfg: DictConfig) -> None:
    from diffusion_lab.run.ladder import ladder

    back_to_typed()
    made = _job(ladder, cfg)
    print(*made.lines, made.out, sep="\n")
    if made.errors:
        sys.exit(1)


def explain() -> None:
    """`diffusion-lab-explain`, scripts/explain.py: a training configuration, not trained."""
    folder = "${paths.log_dir}/explained/${now:%Y-%m-%d_%H-%M-%S}_${run_id:}"
    _prepare(first=lambda words: [f"hydra.run.dir={folder}", "hydra.job.name=explain", *words])
    _main(_task("explain:explain"), "train")


if __name__ == "__main__":
    fail(
        "diffusion_lab.cli is no command: type diffusion-lab-train, or in a checkout python "
        "scripts/train.py; the others are sample, edit, evaluate, compare, tradeoff, likelihood, "
        "diagnose, ladder, export, explain, benchmark and train_extractor"
    )

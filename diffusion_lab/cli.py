"""The commands: Hydra in front, one clear line for a mistake, the work imported when it begins."""

import logging
import os
import pkgutil
import re
import secrets
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion_lab import schema
from diffusion_lab.errors import UserError
from diffusion_lab.faults import fault
from diffusion_lab.freed_memory import keep_freed_memory
from diffusion_lab.run.grammar import quoted, unquoted
from diffusion_lab.run.lock import locked
from diffusion_lab.run.resume import SavedRun, check_new, repeated_run, resumed_run
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


class LogFile(logging.FileHandler):
    """The run's log. Logging prints a traceback for every line that a full disk refuses."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave what the machine refuses to be reported once, by the work."""
        error = sys.exc_info()[1]
        if error is None or fault(error) is None:
            super().handleError(record)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    # TensorBoard writes in a thread, and raises in the work what the thread ran into
    if args.exc_value is None or fault(args.exc_value) is None:
        threading.__excepthook__(args)


def _main(task: Callable[[DictConfig], Any], config_name: str, folder: Path | None = None) -> None:
    """Compose the configuration and run the task, with `folder` locked before it is touched."""
    register(config_name)
    keep_freed_memory()
    # HYDRA_FULL_ERROR=1 makes Hydra raise what it would print; whoever set it wants tracebacks,
    # which processes that Lightning starts know from the other name
    os.environ.setdefault("DIFFUSION_LAB_TRACEBACK", os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    threading.excepthook = _thread_failed
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
    register("train")  # a job of a sweep may run in a process of its own
    if cfg.command.choices.debug == "replay":
        from diffusion_lab.run.replay import replay_job

        return _job(replay_job, cfg)
    from diffusion_lab.run.train import run_job

    return _job(run_job, cfg)


def _saved(task: Callable[[DictConfig], Any], saved: SavedRun) -> None:
    """Run a task with the configuration that a run saved instead of composing one.

    Only that one file of the folder is read: Hydra would call what a folder of groups, or a `hydra`
    node, names.
    """
    typed = list(sys.argv)
    sys.argv[1:] = saved.words

    def with_what_was_typed(cfg: DictConfig) -> Any:
        sys.argv = typed  # what Lightning starts further processes with
        return task(cfg)

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


def _bracket_lists(*names: str) -> None:
    """Let `labels=0,1,2` mean a list; under -m it is a sweep, as Hydra has it."""
    if not names or {"-m", "--multirun"} & {*sys.argv}:
        return
    sys.argv[1:] = [
        re.sub(rf"^({'|'.join(names)})=([^\[].*,.*)$", r"\1=[\2]", word) for word in sys.argv[1:]
    ]


def _task(work: str) -> Callable[[DictConfig], None]:
    """What imports `work`, "module:function", when it begins, and prints what came of it.

    Of its result that is `lines`, and last `out`, the path of what it made.
    """

    def task(cfg: DictConfig) -> None:
        made = _job(lambda cfg: pkgutil.resolve_name(f"diffusion_lab.run.{work}")(cfg), cfg)
        print(*made.lines, made.out, sep="\n")

    return task


def _command(name: str, *lists: str) -> Callable[[], None]:
    """`diffusion-lab-<name>`, scripts/<name>.py; the values of `lists` need no brackets."""

    def command() -> None:
        _bracket_lists(*lists)
        _main(_task(f"{name}:{name}"), name)

    return command


benchmark = _command("benchmark", "parts")
compare = _command("compare", "runs", "metrics")
diagnose = _command("diagnose")
likelihood = _command("likelihood")
train_extractor = _command("train_extractor")


def train() -> None:
    """`diffusion-lab-train`, scripts/train.py."""
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
            for job in there.glob("*/") if there and many else ():
                check_new(job)
            if there and not many:
                with locked(there):
                    check_new(there)
        _main(_train, "train", None if many else there)


def sample() -> None:
    """`diffusion-lab-sample`, scripts/sample.py."""
    _bracket_lists("labels", "guidance_scale", "guidance_interval")
    _main(_task("sample:sample"), "sample")


def export() -> None:
    """`diffusion-lab-export`, scripts/export.py."""
    if "--push" in sys.argv:  # with its value as the next word
        where = sys.argv.index("--push")
        sys.argv[where : where + 2] = [f"--push={''.join(sys.argv[where + 1 : where + 2])}"]
    sys.argv[1:] = [re.sub("^--push=", "push=", word) for word in sys.argv[1:]]
    _main(_task("export:export"), "export")


def edit() -> None:
    """`diffusion-lab-edit`, scripts/edit.py."""
    _bracket_lists("labels", "guidance_scale", "images")
    _main(_task("edit:edit"), "edit")


def evaluate() -> None:
    """`diffusion-lab-evaluate`, scripts/evaluate.py."""
    _bracket_lists("labels", "seeds", "images", "guidance_interval")
    _main(_task("evaluate:evaluate"), "evaluate")


def tradeoff() -> None:
    """`diffusion-lab-tradeoff`, scripts/tradeoff.py."""
    _bracket_lists("samplers", "num_steps", "spacings", "labels", "seeds")
    _main(_task("tradeoff:tradeoff"), "tradeoff")


def ladder() -> None:
    """`diffusion-lab-ladder`, scripts/ladder.py: words of train.yaml go to every rung."""
    from dataclasses import fields

    _bracket_lists("seeds")
    own = tuple(f.name for f in fields(schema.LadderConfig) if f.name != "words")
    own = ("-", "paths.", "hydra", *(f"{name}=" for name in own), "ladder.")
    words = [word for word in sys.argv[1:] if "=" in word or word.startswith("~")]
    for_rungs = [word for word in words if not word.lstrip("+~").startswith(own)]
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in for_rungs]
    if for_rungs:
        sys.argv.append(f"words=[{','.join(quoted(word) for word in for_rungs)}]")
    _main(_ladder, "ladder")


def _ladder(cfg: DictConfig) -> None:
    from diffusion_lab.run.ladder import ladder

    made = _job(ladder, cfg)
    print(*made.lines, made.out, sep="\n")
    if made.errors:
        sys.exit(1)


def explain() -> None:
    """`diffusion-lab-explain`, scripts/explain.py: a training configuration, not trained."""
    folder = "${paths.log_dir}/explained/${now:%Y-%m-%d_%H-%M-%S}_${run_id:}"
    sys.argv[1:1] = [f"hydra.run.dir={folder}", "hydra.job.name=explain"]
    _main(_task("explain:explain"), "train")

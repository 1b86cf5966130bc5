"""Lock and check the folder of a training before anything is written to it.

Hydra would write `.hydra/` before the training can check the folder. Therefore
`hydra.output_subdir: null` in configs/hydra/default.yaml turns this off, and `claimed` writes
`.hydra/` once the folder is known to hold no run. If the training is rejected before its first
step, the new folder is removed again. This module imports no torch.
"""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli.errors import fail
from diffusion_lab.errors import UserError
from diffusion_lab.runs.saved_config import CONFIG_FOLDER, check_start, write_config
from diffusion_lab.runs.state import check_new, read_record
from diffusion_lab.system.lock import NAME as LOCK
from diffusion_lab.system.lock import is_first_process, locked
from diffusion_lab.system.system_errors import fault


@contextmanager
def claimed(cfg: DictConfig) -> Iterator[None]:
    """Lock the run folder within this context, and write the configuration to it.

    Raises UserError, without changing the folder, if the folder holds a run or is in use.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder))
            check_start(cfg, folder)
        except UserError:
            _found.add(folder)  # it holds a run, or is about to
            _close_logs(folder)
            raise
        if is_first_process():
            write_config(folder, cfg, OmegaConf.create({"hydra": hydra}))
        yield


_BEFORE_TRAINING = (CONFIG_FOLDER, LOCK, "metrics.json", "*.log", "events.out.tfevents.*")
"""Names of what a run folder holds before the first training step."""
_found: set[Path] = set()
"""Run folders that existed when their command started."""


@contextmanager
def removed_if_rejected() -> Iterator[None]:
    """Remove the new run folder if the command exits within this context because of a user error.

    Only a folder that this command made is removed, and only if it holds nothing but the files of a
    start. A start that ran out of memory or disk space keeps its folder, and so does a job of a
    sweep, whose summary names it.
    """
    try:
        yield
    except SystemExit as stop:
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        error = stop.__context__
        rejected = stop.code == 2 and isinstance(error, Exception) and fault(error) is None
        if rejected and hydra.mode == RunMode.RUN and is_first_process():
            _remove_start(folder)
        raise


def _remove_start(folder: Path) -> None:
    if folder in _found or not folder.is_dir() or read_record(folder).get("steps"):
        return
    with suppress(UserError), locked(folder):  # not if another command has taken it meanwhile
        names = [entry.name for entry in folder.iterdir()]
        if all(any(fnmatch(name, known) for known in _BEFORE_TRAINING) for name in names):
            _close_logs(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _close_logs(folder: Path) -> None:
    """Close log files in the folder, so that nothing is added to the existing run's log."""
    for handler in list(logging.root.handlers):
        if (
            isinstance(handler, logging.FileHandler)
            and folder in Path(handler.baseFilename).parents
        ):
            logging.root.removeHandler(handler)
            handler.close()


class CheckFolder(Callback):
    """Hydra callback that rejects a folder with a run, before Hydra writes anything to the folder.

    The callback exits the process, because Hydra turns exceptions of callbacks into warnings.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with an error if the folder of a new run holds a run or a sweep, or is in use."""
        with _rejecting(), _resolvable(config):
            _check_subfolder(config)
            folder = Path(config.hydra.run.dir)
            if not folder.is_dir():
                _found.discard(folder.absolute())
            else:
                _found.add(folder.absolute())
                with locked(folder):
                    check_new(folder)
                if (folder / "multirun.yaml").is_file():
                    raise UserError(
                        f"{folder} holds a sweep: type another folder for the run, hydra.run.dir="
                    )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with an error if the folder of a sweep, or of one of its jobs, holds a run."""
        with _rejecting(), _resolvable(config):
            _check_subfolder(config)
            folder = Path(config.hydra.sweep.dir)
            if (folder / "metrics.json").is_file():
                raise UserError(
                    f"{folder} holds a run: type another folder for the sweep, hydra.sweep.dir="
                )
            jobs = "**" if (folder / "multirun.yaml").is_file() else _job_pattern(config)
            for record in folder.glob(f"{jobs}/metrics.json"):
                check_new(record.parent)


def _job_pattern(config: DictConfig) -> str:
    """Return a glob pattern for the job folders of a sweep, relative to the sweep's folder."""
    sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    numbered = str(sweep["subdir"]).replace("${hydra:job.num}", "[0-9]*")
    return re.sub(r"\$\{[^}]*\}", "*", numbered)


@contextmanager
def _rejecting() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        fail(str(error), error)


@contextmanager
def _resolvable(config: DictConfig) -> Iterator[None]:
    """Make `${hydra:...}` resolvable in `config` within this context, as it is within a job."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _check_subfolder(config: DictConfig) -> None:
    named = config.hydra.output_subdir
    if named is not None:
        raise UserError(
            f"hydra.output_subdir={named}: resume= and compare.py need a run's configuration in "
            f"{CONFIG_FOLDER}/; leave out hydra.output_subdir="
        )

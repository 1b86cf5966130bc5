"""Taking up a run where it stopped: which words may be typed, which checkpoint is the newest good.

Imports no torch before the work begins: the command line asks here first.
"""

import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from diffusion_lab.errors import UserError

if TYPE_CHECKING:
    import lightning as L

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "callbacks.last.every_seconds",
    "callbacks.progress.seconds",
    "paths.data_dir",
    "data.data_dir",
)
"""Settings that do not make it another experiment."""


def resume_words(words: Sequence[str]) -> tuple[Path, list[str]]:
    """Split what was typed with resume= into the run folder and the words for Hydra.

    Raises UserError for a folder that is none and for words that would change the experiment.
    """
    folder, others = _saved_run("resume", words)
    limits = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
    if _record(folder).get("status") == "finished" and not any(
        w.lstrip("+").startswith(limits) for w in others
    ):
        raise UserError(
            f"resume={folder} is finished: to train further raise its limit, for example "
            "trainer.max_epochs="
        )
    number = 1 + len(list((folder / ".hydra").glob("resumed_*")))
    return folder, [*_job_words(folder, f".hydra/resumed_{number}"), *others]


def rerun_words(words: Sequence[str]) -> tuple[Path, Path, list[str]]:
    """The same for rerun=: the first run's folder, the new one beside it, the words for Hydra."""
    folder, others = _saved_run("rerun", words)
    if any("max_time" in w for w in others):
        raise UserError("rerun= repeats the same steps: leave out trainer.max_time=")
    new = folder.with_name(f"{folder.name}_again_{secrets.token_hex(3)}")
    return folder, new, [*_job_words(new, ".hydra"), *others]


def _saved_run(command: str, words: Sequence[str]) -> tuple[Path, list[str]]:
    """The run folder named and the other words, which may change nothing that matters."""
    named = next(word for word in words if word.startswith(f"{command}="))
    folder = Path(named.partition("=")[2]).expanduser().absolute()
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(
            f"{named} is no run folder: give one that holds .hydra/config.yaml, "
            f"{command}=logs/runs/<name>"
        )
    others = [word for word in words if word != named]
    for word in others:
        if word in ("-m", "--multirun"):
            raise UserError(f"{command}= takes up one run: leave out {word}")
        # Lightning starts the other processes of a run with words of Hydra's own
        if not word.lstrip("+").partition("=")[0].startswith((*MAY_CHANGE, "hydra.", "--")):
            raise UserError(
                f"{word} would make it another experiment: with {command}= may be typed "
                f"{', '.join(MAY_CHANGE)}; start a new run for the rest"
            )
    return folder, others


def _job_words(folder: Path, config_dir: str) -> list[str]:
    """Where the job works, and its log as in configs/hydra."""
    return [
        f"hydra.run.dir={_quoted(str(folder))}",
        f"hydra.output_subdir={config_dir}",
        "hydra.job.name=train",
        "hydra/job_logging=lab",
        "hydra/hydra_logging=none",
        f"paths.output_dir={_quoted(str(folder))}",
    ]


def _quoted(text: str) -> str:
    """As a value of Hydra's grammar."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


@dataclass
class Resumed:
    """The checkpoint that a run is taken up from."""

    path: Path
    content: dict[str, Any]


def newest_checkpoint(run_dir: Path) -> Resumed:
    """The newest checkpoint of a run that can be read.

    Warns of every damaged one it passes over. Raises UserError if there is none.
    """
    from diffusion_lab.run.checkpoint_io import PREVIOUS, read_checkpoint

    folder = run_dir / "checkpoints"
    for part in folder.glob(".*.part"):  # of a process that was killed while it saved
        part.unlink()
    newest_first = sorted(folder.glob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)
    order = [p for name in ("last", PREVIOUS) for p in newest_first if p.stem == name]
    order += [p for p in newest_first if p not in order]
    for path in order:
        try:
            return Resumed(path, read_checkpoint(path))
        except UserError as error:
            log.warning("%s; falling back to an older one", str(error).partition(":")[0])
    raise UserError(
        f"resume={run_dir}: there is no checkpoint in it that can be read; start a new run"
    )


def set_scene(cfg: DictConfig, content: dict[str, Any]) -> DictConfig:
    """The configuration with what only the first command line knew, and its number of threads."""
    import torch

    torch.set_num_threads(content["threads"])
    cfg.command = content["config"]["command"]
    return cfg


def as_it_was(cfg: DictConfig, content: dict[str, Any]) -> DictConfig:
    """The same for a run that has started: its network and its weights are its own by now."""
    cfg = set_scene(cfg, content)
    if cfg.init_from is not None:
        cfg.init_from, cfg.network = None, content["config"]["network"]
    return cfg


def log_pending(trainer: "L.Trainer", run_dir: Path, content: dict[str, Any]) -> None:
    """Give TensorBoard what the stopped run had saved and not logged yet, if it had not."""
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    step, pending = content["global_step"] - 1, content.get("pending", {})
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger) or not pending:
            continue
        events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every restart
        events.Reload()
        there = events.Tags()["scalars"]
        missing = {
            name: value
            for name, value in pending.items()
            if name not in there or step not in (event.step for event in events.Scalars(name))
        }
        if missing:
            logger.log_metrics(missing | {"epoch": float(content["epoch"])}, step)


def end_again(
    trainer: "L.Trainer", module: "L.LightningModule", content: dict[str, Any]
) -> dict[str, float]:
    """What was left of a run that stopped after its last step: its pictures, its metrics."""
    from diffusion_lab.callbacks import Figures, LossHistory

    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Figures | LossHistory):
            callback.on_train_end(trainer, module)
    metrics: dict[str, float] = content["metrics"]
    return metrics

"""The state of a run folder: whether it holds a run, and how that ended. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from diffusion_lab.errors import UserError
from diffusion_lab.runs.newest_checkpoint import has_checkpoint


def read_record(folder: Path) -> dict[str, Any]:
    """Read metrics.json of a run folder; empty where it cannot be read."""
    try:
        record = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def checkpoint_file(run_dir: str | Path, checkpoint: str = "last") -> Path:
    """Return the file of a run's checkpoint; UserError where there is no such run or file."""
    folder = Path(run_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"run={run_dir} is no folder: give a run folder such as logs/runs/<name>")
    path = folder / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.is_file():
        there = sorted(p.stem for p in (folder / "checkpoints").glob("*.ckpt"))
        hint = f"it has checkpoint={' and '.join(there)}" if there else "is it a run folder?"
        if (folder / "model_index.json").is_file():
            hint = f"it is a diffusers pipeline, of which sample.py pipeline={run_dir} draws"
        raise UserError(f"run={run_dir} has no checkpoints/{checkpoint}.ckpt: {hint}")
    return path


def has_saved(run_dir: Path) -> bool:
    """Whether a run got as far as its first checkpoint, or says that it ended."""
    return has_checkpoint(run_dir) or read_record(run_dir).get("status") == "finished"


def check_new(run_dir: Path) -> None:
    """Raise UserError for a folder that holds a run which a new one would overwrite.

    Not for what SLURM put back into its queue: within SLURM Lightning goes on there by itself.
    """
    status = read_record(run_dir).get("status")
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


def check_repeatable(folder: Path, max_time: Any) -> None:
    """Raise UserError for a run that went by the clock."""
    if max_time is not None:
        raise UserError(
            f"rerun={folder} went by the clock, trainer.max_time={max_time}, and would not make "
            "the same steps again: only runs with max_epochs or max_steps repeat"
        )

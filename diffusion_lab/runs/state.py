"""State of a run folder: its metrics.json, its checkpoints, and checks before a new run.

Imports no torch.
"""

import json
from pathlib import Path
from typing import Any

from diffusion_lab.errors import UserError
from diffusion_lab.runs.newest_checkpoint import has_checkpoint


def read_record(folder: Path) -> dict[str, Any]:
    """Read metrics.json of a run folder; return {} if the file is missing or damaged."""
    try:
        record = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def checkpoint_file(run_dir: str | Path, checkpoint: str = "last") -> Path:
    """Return the path of a run's checkpoint; UserError if the run or the file does not exist."""
    folder = Path(run_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"run={run_dir} is no folder: expected a run folder, run=logs/runs/<name>")
    path = folder / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.is_file():
        there = sorted(p.stem for p in (folder / "checkpoints").glob("*.ckpt"))
        hint = f"type checkpoint={' or '.join(there)}" if there else "expected a run folder"
        if (folder / "model_index.json").is_file():
            hint = f"it is a diffusers pipeline, so type sample.py pipeline={run_dir}"
        raise UserError(f"run={run_dir} has no checkpoints/{checkpoint}.ckpt: {hint}")
    return path


def has_saved(run_dir: Path) -> bool:
    """Return True if a run has saved a checkpoint or is finished."""
    return has_checkpoint(run_dir) or read_record(run_dir).get("status") == "finished"


def check_new(run_dir: Path) -> None:
    """Raise UserError if a new run would overwrite the run in a folder.

    Within SLURM, a requeued run is no error, because Lightning resumes that run.
    """
    status = read_record(run_dir).get("status")
    requeued = any(run_dir.glob("hpc_ckpt_*.ckpt"))
    if (requeued or has_saved(run_dir)) and not (requeued and status != "finished" and _in_slurm()):
        raise UserError(
            f"{run_dir} holds a run already: continue it with resume={run_dir}, or choose another "
            "folder for a new run"
        )
    if status == "diverged":
        raise UserError(f"{run_dir} holds a run that diverged: choose another folder for a new run")


def _in_slurm() -> bool:
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    return SLURMEnvironment.detect()


def check_repeatable(folder: Path, max_time: Any) -> None:
    """Raise UserError if the run in `folder` had a time limit, so its steps are not repeatable."""
    if max_time is not None:
        raise UserError(
            f"rerun={folder} had a time limit, trainer.max_time={max_time}, so its number of steps "
            "is not repeatable: expected a run limited by trainer.max_epochs or trainer.max_steps"
        )

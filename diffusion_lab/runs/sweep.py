"""Sweep folders on disk: the jobs, their results, and the options that vary. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffusion_lab.config.resolvers import swept
from diffusion_lab.runs.objective import mark_objectives
from diffusion_lab.runs.state import read_record


def _runs_below(folder: Path) -> Iterator[Path]:
    for below in sorted(folder.iterdir()):
        if below.name.startswith(".") or not below.is_dir():
            continue
        if (below / ".hydra" / "config.yaml").is_file():
            yield below
        elif not below.is_symlink():  # a link may lead back to a parent
            yield from _runs_below(below)


def job_folders(sweep_dir: Path) -> list[Path]:
    """Return the run folders of a sweep's jobs, in numerical order.

    The folders may be at any depth, because hydra.sweep.subdir may nest them.
    """

    def order(folder: Path) -> list[tuple[bool, int, str]]:
        parts = folder.relative_to(sweep_dir).parts
        return [(not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]

    return sorted(_runs_below(sweep_dir), key=order)


def read_jobs(sweep_dir: Path) -> list[dict[str, Any]]:
    """Return one row of a table per job of a sweep, as a dictionary.

    Keys: job (relative folder), overrides, swept (the overrides that vary), status, wall_seconds,
    every metric, error (of a failed job) and run_dir. If the jobs train different objectives, the
    key objective is a number that is equal for jobs with comparable losses.
    """
    rows = []
    for folder in job_folders(sweep_dir):
        overrides = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
        record = read_record(folder) or {"status": "failed"}
        rows.append(
            {
                "job": str(folder.relative_to(sweep_dir)),
                "overrides": " ".join(str(o) for o in overrides),
                "swept": " ".join(swept([str(o) for o in overrides], sweep_dir)),
                "status": record["status"],
                "wall_seconds": record.get("wall_seconds"),
                **record.get("metrics", {}),
                **({"error": record["error"]} if "error" in record else {}),
                "run_dir": str(folder),
            }
        )
    return mark_objectives(rows)

"""Summaries of sweeps: summary.csv, a row a job, and a table. Imports no torch."""

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.run.objective import mark_objectives, note_on_losses

_LONGEST_NAME = 120  # file systems take 255 bytes


def _runs_below(folder: Path) -> Iterator[Path]:
    for below in sorted(folder.iterdir()):
        if below.name.startswith(".") or not below.is_dir():
            continue
        if (below / ".hydra" / "config.yaml").is_file():
            yield below
        elif not below.is_symlink():  # it may lead to where it lies
            yield from _runs_below(below)


def job_folders(sweep_dir: Path) -> list[Path]:
    """The run folders of a sweep at any depth (hydra.sweep.subdir may nest them), by number."""

    def order(folder: Path) -> list[tuple[bool, int, str]]:
        parts = folder.relative_to(sweep_dir).parts
        return [(not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]

    return sorted(_runs_below(sweep_dir), key=order)


def swept_keys(sweep_dir: Path) -> set[str] | None:
    """The options that a sweep varies; None where its multirun.yaml does not say."""
    try:
        saved = OmegaConf.load(sweep_dir / "multirun.yaml")
        typed = OverridesParser.create().parse_overrides(list(saved.hydra.overrides.task))
        params = OmegaConf.select(saved, "hydra.sweeper.params") or {}
    except Exception:  # whatever a YAML parser makes of a broken file
        return None
    keys = {word.get_key_element() for word in typed if word.is_sweep_override()}
    return keys | {str(key) for key in params}


def swept(overrides: Sequence[str], sweep_dir: Path) -> list[str]:
    """The overrides of a job that the sweep varies; all of them where that is not known."""
    keys = swept_keys(sweep_dir)
    return [w for w in overrides if keys is None or w.partition("=")[0] in keys]


def tensorboard_name(run_dir: str) -> str:
    """Name the folder of TensorBoard's files in a run folder, "" for the run folder itself.

    TensorBoard shows the path of that folder as the run's name. A job of a sweep, whose own folder
    is just a number, gets what tells it from the others: `model=ddpm,seed=1`. Where files lie
    already the name stays, so that a resumed run goes on in them.
    """
    folder = Path(run_dir)
    if any(folder.glob("events.out.tfevents*")):
        return ""
    for file in sorted(folder.glob("*/events.out.tfevents*")):
        return file.parent.name
    sweep_dir = folder.parent
    if not folder.name.isdecimal() or not (sweep_dir / "multirun.yaml").is_file():
        return ""
    try:
        overrides = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
    except (OSError, ValueError):
        return ""
    name = ",".join(swept([str(word) for word in overrides], sweep_dir))
    return re.sub(r"[^\w.,=+@-]+", "-", name).lstrip(".")[:_LONGEST_NAME]


def read_jobs(sweep_dir: Path) -> list[dict[str, Any]]:
    """One row a job, in order: job, overrides, status, wall_seconds, its metrics, its folder."""
    rows = []
    for folder in job_folders(sweep_dir):
        overrides = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
        try:
            record = json.loads((folder / "metrics.json").read_text())
        except FileNotFoundError:
            record = {"status": "failed"}
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


def summarize(sweep_dir: Path) -> list[dict[str, Any]]:
    """Write summary.csv into the sweep folder; its columns are those of all jobs together."""
    rows = read_jobs(sweep_dir)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [c for c in columns if c not in ("swept", "run_dir")]
    with (sweep_dir / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "run_dir"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return rows


class SweepSummary(Callback):
    """Remembers the sweep's folder, so that it can be summed up even when a job failed.

    Hydra calls on_multirun_end only when every job succeeded.
    """

    sweep_dir: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra in the process that launches the jobs."""
        SweepSummary.sweep_dir = Path(config.hydra.sweep.dir).absolute()

    @classmethod
    def write(cls) -> None:
        """Write and print the table of the sweep, if there was one, and its folder last."""
        if cls.sweep_dir is None or not cls.sweep_dir.is_dir():
            return
        from rich.console import Console
        from rich.table import Table

        rows = summarize(cls.sweep_dir)
        for row in rows:  # a table shows what tells the jobs apart
            row["overrides"] = row.pop("swept")
        names = list(dict.fromkeys(key for row in rows for key in row if key != "run_dir"))
        table = Table(
            *names, title=f"{len(rows)} job{'s' * (len(rows) != 1)}", title_justify="left"
        )
        for row in rows:
            cells = (row.get(name, "") for name in names)
            table.add_row(*(f"{c:.5g}" if isinstance(c, float) else str(c) for c in cells))
        Console(file=sys.stdout, width=200).print(table)
        for line in note_on_losses(rows):
            print(line)
        print(cls.sweep_dir, flush=True)
        cls.sweep_dir = None

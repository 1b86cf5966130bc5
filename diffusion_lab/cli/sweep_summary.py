"""Summarise a sweep as summary.csv and as a printed table, with one row per job.

This module imports no torch.
"""

import csv
import sys
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from diffusion_lab.runs.objective import note_on_losses
from diffusion_lab.runs.sweep import read_jobs


def summarize(sweep_dir: Path) -> list[dict[str, Any]]:
    """Write summary.csv to the sweep folder, with one row per job; return the rows."""
    rows = read_jobs(sweep_dir)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [c for c in columns if c not in ("swept", "run_dir")]
    with (sweep_dir / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "run_dir"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return rows


class SweepSummary(Callback):
    """Hydra callback that remembers the sweep's folder, to summarise the sweep at the end.

    `run_command` calls `write`, because Hydra calls on_multirun_end only if every job succeeded.
    """

    sweep_dir: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the sweep's folder, in the process that launches the jobs."""
        SweepSummary.sweep_dir = Path(config.hydra.sweep.dir).absolute()

    @classmethod
    def write(cls) -> None:
        """After a sweep, write summary.csv, print the table and, last, the sweep's folder."""
        if cls.sweep_dir is None or not cls.sweep_dir.is_dir():
            return
        from rich.console import Console
        from rich.table import Table

        rows = summarize(cls.sweep_dir)
        for row in rows:  # the table shows only the overrides that differ
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

"""metrics.json: settings, versions, status and results of a run."""

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffusion_lab import __version__
from diffusion_lab.runs.state import read_record
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.lock import check_still_there
from diffusion_lab.system.output import write_json

PACKAGES = (
    "diffusion-lab",
    "torch",
    "torchvision",
    "lightning",
    "diffusers",
    "hydra-core",
    "numpy",
)


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages by name, even if this project itself is not installed."""
    return {name: __version__ if name == "diffusion-lab" else version(name) for name in names}


class RunRecord:
    """Settings, status and results of a run, which `write` saves in its metrics.json.

    The status of a killed run stays "running".
    """

    def __init__(self, run_dir: Path, overrides: list[str], seed: int) -> None:
        self.path = run_dir / "metrics.json"
        self.started = time.time()
        self.was_finished = False  # by an earlier start
        self.content: dict[str, Any] = {
            "status": "running",
            "overrides": overrides,
            "seed": seed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git_commit": git_commit(),
            "python": platform.python_version(),
            "versions": package_versions(PACKAGES),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }

    def mark_resumed(self, checkpoint: str, step: int) -> None:
        """Continue the record of a resumed run: keep its overrides, first start and best score.

        `checkpoint` and `step` say from where the run resumes; they are added to "resumed".
        """
        old = read_record(self.path.parent)
        if not old:
            return
        self.was_finished = old.get("status") == "finished"
        kept = {key: old[key] for key in ("overrides", "started", "best") if key in old}
        again = {"at": self.content["started"], "checkpoint": checkpoint, "step": step}
        self.content |= kept | {"resumed": [*old.get("resumed", []), again]}
        self.started -= old.get("wall_seconds", 0.0)

    def write(self, **news: Any) -> None:
        """Add `news` to the record and write metrics.json; UserError if the run folder is gone."""
        check_still_there(self.path.parent)
        self.content |= news
        self.content["wall_seconds"] = round(time.time() - self.started, 3)
        write_json(self.path, self.content)

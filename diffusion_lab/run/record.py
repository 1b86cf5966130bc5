"""metrics.json: what a run was, how it ended and what came out."""

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffusion_lab import __version__
from diffusion_lab.atomic import replacing
from diffusion_lab.cli import CONFIG_DIR
from diffusion_lab.run.lock import check_still_there

PACKAGES = (
    "diffusion-lab",
    "torch",
    "torchvision",
    "lightning",
    "diffusers",
    "hydra-core",
    "numpy",
)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON, whole or not at all; numbers that are not finite become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): finite(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    with replacing(path) as part:
        part.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n")


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages; this one need not be installed to be used."""
    return {name: __version__ if name == "diffusion-lab" else version(name) for name in names}


def git_commit() -> str | None:
    """The commit of the checkout this code runs from, "+changes" if it was edited; else None."""
    root = CONFIG_DIR.parent
    if not (root / "pyproject.toml").is_file():  # an installed wheel is in nobody's checkout
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class RunRecord:
    """Grows with the run; `write` may be called at any time, so a killed run leaves "running"."""

    def __init__(self, run_dir: Path, overrides: list[str], seed: int) -> None:
        self.path = run_dir / "metrics.json"
        self.started = time.time()
        self.was_finished = False  # before this start
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

    def go_on(self, checkpoint: str, step: int) -> None:
        """Keep what the record of a stopped run says of its beginning, and note the new start."""
        try:
            old = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return
        self.was_finished = old.get("status") == "finished"
        kept = {key: old[key] for key in ("overrides", "started", "best") if key in old}
        again = {"at": self.content["started"], "checkpoint": checkpoint, "step": step}
        self.content |= kept | {"resumed": [*old.get("resumed", []), again]}
        self.started -= old.get("wall_seconds", 0.0)

    def write(self, **news: Any) -> None:
        """Add what is new and put the file in place; UserError if the run folder is gone."""
        check_still_there(self.path.parent)
        self.content |= news
        self.content["wall_seconds"] = round(time.time() - self.started, 3)
        write_json(self.path, self.content)

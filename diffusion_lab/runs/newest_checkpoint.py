"""Find the newest readable checkpoint of a run. Imports torch only to read one."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_lab.errors import UserError

if TYPE_CHECKING:  # it imports torch
    from diffusion_lab.runs.checkpoint import Checkpoint

log = logging.getLogger(__name__)


@dataclass
class Resumed:
    """The checkpoint that a run is resumed from."""

    path: Path
    content: "Checkpoint"


def has_checkpoint(run_dir: Path) -> bool:
    """Return True if a run has saved a checkpoint, readable or not."""
    return any((run_dir / "checkpoints").glob("*.ckpt"))


def newest_checkpoint(run_dir: Path) -> Resumed:
    """Read the newest readable checkpoint of a run, for a training that continues from it.

    Logs a warning for every unreadable checkpoint, and removes temporary files of a killed
    training. Raises UserError if no checkpoint can be read.
    """
    # files that a killed training was writing; deeper folders belong to other commands
    for part in [*run_dir.glob(".*.part"), *run_dir.glob("*/.*.part")]:
        if part.is_file():
            part.unlink()
    return read_newest(run_dir, warn=True)


def read_newest(run_dir: Path, warn: bool = False) -> Resumed:
    """Read the newest readable checkpoint of a run without changing the folder.

    With `warn`, unreadable checkpoints are logged. Raises UserError if no checkpoint can be read.
    """
    from diffusion_lab.runs.checkpoint import PREVIOUS, read_checkpoint

    folder = run_dir / "checkpoints"
    newest_first = sorted(folder.glob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)
    order = [p for name in ("last", PREVIOUS) for p in newest_first if p.stem == name]
    order += [p for p in newest_first if p not in order]
    if warn and order and order[0].stem != "last":
        log.warning("%s is missing; falling back to an older checkpoint", folder / "last.ckpt")
    for path in order:
        try:
            return Resumed(path, read_checkpoint(path))
        except UserError:
            if warn:
                log.warning("%s cannot be read; falling back to an older checkpoint", path)
    raise UserError(f"{folder} holds no readable checkpoint: start a new run")

"""The newest checkpoint of a run that can be read. Imports torch only where it reads one."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class Resumed:
    """The checkpoint that a run is resumed from."""

    path: Path
    content: dict[str, Any]


def has_checkpoint(run_dir: Path) -> bool:
    """Return True if a run has saved a checkpoint, readable or not."""
    return any((run_dir / "checkpoints").glob("*.ckpt"))


def newest_checkpoint(run_dir: Path) -> Resumed:
    """The newest checkpoint of a run that can be read.

    Warns of every one it passes over, and removes what a killed training left half-written. Raises
    UserError if none is left.
    """
    # of a training that was killed while it wrote; what lies deeper is of other commands
    for part in [*run_dir.glob(".*.part"), *run_dir.glob("*/.*.part")]:
        if part.is_file():
            part.unlink()
    return read_newest(run_dir, warn=True)


def read_newest(run_dir: Path, warn: bool = False) -> Resumed:
    """The same for a look at a run that others may use: it changes nothing."""
    from diffusion_lab.runs.checkpoint import PREVIOUS, read_checkpoint

    folder = run_dir / "checkpoints"
    newest_first = sorted(folder.glob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)
    order = [p for name in ("last", PREVIOUS) for p in newest_first if p.stem == name]
    order += [p for p in newest_first if p not in order]
    if warn and order and order[0].stem != "last":
        log.warning("%s is missing; falling back to an older one", folder / "last.ckpt")
    for path in order:
        try:
            return Resumed(path, read_checkpoint(path))
        except UserError as error:
            if warn:
                log.warning("%s; falling back to an older one", str(error).partition(":")[0])
    raise UserError(f"{folder} holds no checkpoint that can be read: start a new run")

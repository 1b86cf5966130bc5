"""Checkpoints on disk: a file is there whole, checked and readable, or it is the one before."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from diffusion_lab.config.renamed import with_new_names
from diffusion_lab.errors import UserError
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.system_errors import no_memory

PARTS = ("command", "data", "model", "noise_schedule", "sampler")
PREVIOUS = "previous"
"""What the last.ckpt before the newest is called."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file, syncs it, loads it again, and only then renames it.

    The last.ckpt that a new one replaces stays as previous.ckpt.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Called by Lightning in the first process."""
        path = Path(path)
        with replacing(path) as part:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            read_checkpoint(part)
            if path.stem == "last" and path.exists():
                with replacing(path.with_name(f"{PREVIOUS}.ckpt")) as old:
                    _link(path, old)  # at no moment is there no last.ckpt
        if os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the rename itself
            finally:
                os.close(folder)


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path, to)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, to)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU: plain types and tensors, no code.

    Raises UserError for a file that is damaged, carries code or is not this project's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("unpacks to more than its size")  # torch packs nothing
            # torch itself does not look at the checksums
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(state["config"][part], dict) for part in PARTS):
            raise ValueError("no configuration of this project")
        if not isinstance(state["state_dict"], dict):
            raise ValueError("no weights")
    except Exception as error:
        if no_memory(error):
            raise
        unsafe = isinstance(error, pickle.UnpicklingError)
        what = (
            "it holds more than plain data, which was not loaded"
            if unsafe
            else type(error).__name__
        )
        beside = [path.with_stem(name) for name in (PREVIOUS, "best") if name != path.stem]
        others = [f"checkpoint={other.stem}" for other in beside if other.exists()]
        raise UserError(
            f"{path} is damaged or was not written by this project ({what}): give "
            f"{' or '.join([*others, 'another run' if others else 'another checkpoint or run'])}"
        ) from error
    state["config"] = with_new_names(state["config"])
    return state

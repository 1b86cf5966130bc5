"""Where a command works and where it leaves what it made."""

import secrets
import time
from pathlib import Path

import lightning as L
import torch

from diffusion_lab.errors import UserError


def choose_device(accelerator: str) -> torch.device:
    """The device of an accelerator's name, "auto" for the best there is; else UserError."""
    try:
        return L.Fabric(accelerator=accelerator, devices=1).device
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"accelerator={accelerator}: {reason} Use accelerator=cpu or auto."
        ) from error


def make_folder(out: str | None, parent: Path) -> Path:
    """An empty folder to write to: `out`, or a new one named after the time in `parent`.

    Raises UserError if it holds anything or cannot be made, so that nothing is ever overwritten.
    """
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"
    folder = (Path(out).expanduser() if out else parent / name).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        full = any(folder.iterdir())
    except OSError as error:
        raise UserError(f"out={folder} cannot be made: {error.strerror}") from error
    if full:
        raise UserError(f"out={out} already holds something: give a new or an empty folder")
    return folder

"""Where a command works, and where and how it leaves what it made."""

import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from diffusion_lab.atomic import replacing
from diffusion_lab.errors import UserError
from diffusion_lab.run.gpu import check_gpu, use_tf32, why_no_gpu


def choose_device(accelerator: str) -> torch.device:
    """Return the device that Lightning chooses for a word such as auto or gpu, ready for use.

    Float32 is exact there from now on: only a training multiplies by TF32. Raises UserError where
    there is no such device, or torch cannot use it.
    """
    device = find_device(accelerator)
    check_gpu(device)
    use_tf32(False)
    return device


def find_device(accelerator: str) -> torch.device:
    """Do as `choose_device`, but leave a GPU untouched, for processes that will be forked."""
    try:
        return L.Fabric(accelerator=accelerator, devices=1).device
    except (RuntimeError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        if accelerator in ("gpu", "cuda") and (why := why_no_gpu()):
            reason = f"{why}."
        raise UserError(
            f"accelerator={accelerator}: {reason} Use accelerator=cpu, gpu or auto."
        ) from error


def results_folder(out: str | None, parent: Path) -> Path:
    """Make an empty folder for results: `out`, or one named after the time in `parent`.

    Raises UserError if it holds anything, so that nothing is overwritten, or cannot be made.
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


def check_picture(out: Path) -> None:
    """Make the folder of a picture; UserError for no name of a PNG, or where none can be made."""
    if out.is_dir() or out.suffix.lower() != ".png":
        better = out / "picture.png" if out.is_dir() else out.with_suffix(".png")
        raise UserError(f"{out} is no name for a picture: expected for example {better}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error


def save_arrays(path: Path, **arrays: Tensor) -> None:
    """Write tensors as a compressed npz, whole or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        plain: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
        np.savez_compressed(file, **plain)

"""Create and check the output folders of commands, and write their files atomically."""

import hashlib
import json
import math
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffusion_lab.errors import UserError
from diffusion_lab.system.atomic import replacing


def results_folder(out: str | None, parent: Path) -> Path:
    """Create an empty folder for a command's results and return its path.

    The folder is `out`, or if `out` is None a new folder in `parent`, named after the time. Raises
    UserError if the folder is not empty (nothing is overwritten) or cannot be created.
    """
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"
    folder = (Path(out).expanduser() if out else parent / name).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        full = any(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"out={folder} cannot be created ({error.strerror}): type another folder, out=<folder>"
        ) from error
    if full:
        raise UserError(f"out={out} is not empty: type a new or empty folder, out=<folder>")
    return folder


def check_picture(out: Path) -> None:
    """Create the folder of a figure; UserError if `out` is no .png file or cannot be written."""
    if out.is_dir() or out.suffix.lower() != ".png":
        better = out / "figure.png" if out.is_dir() else out.with_suffix(".png")
        raise UserError(
            f"{out} is not a .png file: expected a name that ends with .png, for example {better}"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}): give a file in another folder"
        ) from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, which is read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_arrays(path: Path, **arrays: Tensor) -> None:
    """Write tensors to a compressed npz file, atomically, under their argument names."""
    with replacing(path) as part, part.open("wb") as file:
        plain: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
        np.savez_compressed(file, **plain)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON atomically; numbers that are not finite become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): finite(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    with replacing(path) as part:
        part.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n")

"""What the commands that use a trained run have in common: the run, the device, the folder."""

import secrets
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab.atomic import replacing
from diffusion_lab.errors import UserError
from diffusion_lab.run.load import Run


def check_run_given(cfg: DictConfig) -> None:
    """Raise UserError where run= was not typed."""
    if OmegaConf.is_missing(cfg, "run") or not cfg.run:
        raise UserError("run= is missing: give a run folder, run=logs/runs/<name>")


def move_to_device(run: Run, accelerator: str) -> None:
    """Move the module to the device that Lightning chooses for a word such as auto or gpu."""
    try:
        run.module.to(L.Fabric(accelerator=accelerator, devices=1).device)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"accelerator={accelerator}: {reason} Use accelerator=cpu or auto.") from (
            error
        )


def results_folder(out: str | None, parent: Path, results: str) -> Path:
    """Make the folder for results, `out` or a new one in `parent`.

    Raises UserError if it already holds the file `results` or cannot be made.
    """
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"
    folder = (Path(out) if out else parent / name).absolute()
    if (folder / results).exists():
        raise UserError(f"out={out} already holds {results}: give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder} cannot be made: {error.strerror}") from error
    return folder


def save_arrays(path: Path, **arrays: Tensor) -> None:
    """Write tensors as a compressed npz, whole or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        plain: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
        np.savez_compressed(file, **plain)

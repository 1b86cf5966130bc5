"""A trained run back from its folder, in one call."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.run.build import build


@dataclass
class Run:
    """A trained module and what is needed to use it."""

    dir: Path
    config: dict[str, Any]
    """The resolved configuration it was trained with."""
    module: DiffusionModule
    """In evaluation mode, on the CPU."""
    value_range: ValueRange
    image_shape: tuple[int, int, int]
    """(C, H, W)."""


def load_run(run_dir: str | Path, checkpoint: str = "last") -> Run:
    """Rebuild the module of a run folder with the weights of its checkpoint, "last" or "best".

    Only plain data is read from the file (weights_only). Raises UserError if the folder or the
    checkpoint is not there or cannot be read.
    """
    folder = Path(run_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"run={run_dir} is no folder: give a run folder such as logs/runs/<name>")
    path = folder / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.is_file():
        there = sorted(p.stem for p in (folder / "checkpoints").glob("*.ckpt"))
        hint = f"it has checkpoint={' and '.join(there)}" if there else "is it a run folder?"
        raise UserError(f"run={run_dir} has no checkpoints/{checkpoint}.ckpt: {hint}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        config, weights = state["config"], state["state_dict"]
    except Exception as error:
        raise UserError(
            f"{path} is damaged or was not written by this project "
            f"({type(error).__name__}): give another checkpoint or run"
        ) from error
    # the training's own parts are not needed to use a model
    module_config = {k: v for k, v in config["model"].items() if k not in _TRAINING_ONLY}
    module: DiffusionModule = build(module_config)
    module.load_state_dict(weights)
    data = config["data"]
    return Run(
        dir=folder,
        config=config,
        module=module.eval().requires_grad_(False),
        value_range=ValueRange(data["value_range"]),
        image_shape=(data["channels"], data["image_size"], data["image_size"]),
    )


_TRAINING_ONLY = {"optimizer", "lr_scheduler"}

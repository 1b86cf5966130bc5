"""A training configuration without the command line, for notebooks and tests."""

import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from diffusion_lab.cli import CONFIG_DIR, register


def compose_config(
    overrides: Sequence[str] = (), output_dir: str | Path | None = None
) -> DictConfig:
    """Compose what `scripts/train.py <overrides>` would train.

    `output_dir` is the run folder, by default a new one under logs/runs/.
    """
    register()
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path(output_dir or f"logs/runs/{stamp}_{time.time_ns() % 1_000_000_000:09d}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", list(overrides))
    cfg.paths.output_dir = str(folder.absolute())
    return cfg

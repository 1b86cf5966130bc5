"""Resolve relative paths from the user's working directory, also with hydra.job.chdir=true."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

PATHS = (
    *("paths.data_dir", "paths.log_dir"),
    *("data.data_dir", "data.path", "data.cache_dir"),
    *("init_from", "teacher.run", "replay"),
)
"""Options of a training that name a file or a folder."""
NAMES_OR_PATHS = ("callbacks.fid.extractor", "latents", "data.latents", "data.name")
"""Options whose value is a path or a name, such as the name of a shipped feature extractor."""
_DATA = "data"  # the default data folder


def paths_as_typed(cfg: DictConfig) -> DictConfig:
    """Make relative paths of a training absolute if Hydra has changed to the run folder.

    The working directory stays the run folder, as requested by hydra.job.chdir=true.
    """
    typed_in = Path(HydraConfig.get().runtime.cwd)
    if Path.cwd() == typed_in:
        return cfg
    with open_dict(cfg):
        for key in (*PATHS, *NAMES_OR_PATHS):
            value = OmegaConf.select(cfg, key)
            if key == "paths.data_dir" and value is None:
                value = _DATA
            if not isinstance(value, str) or not value:
                continue
            path = typed_in / Path(value).expanduser()
            if key in PATHS or path.exists():
                OmegaConf.update(cfg, key, str(path))
    return cfg


def back_to_typed() -> None:
    """Return to the user's working directory, which Hydra leaves with hydra.job.chdir=true.

    All commands do this except training, which stays in its run folder.
    """
    os.chdir(HydraConfig.get().runtime.cwd)

"""Relative paths are meant from where the command was typed, also under hydra.job.chdir=true."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

PATHS = ("paths.data_dir", "paths.log_dir", "data.data_dir", "init_from", "teacher.run", "replay")
"""Options of a training that name a file or a folder."""
NAMES_OR_PATHS = ("callbacks.fid.extractor",)
"""The same for options that may also be the name of something else."""
_DATA = "data"  # where nothing is named


def paths_as_typed(cfg: DictConfig) -> DictConfig:
    """Make the relative paths of a training absolute if Hydra has gone into the run folder.

    The working directory stays the run folder, for those who asked for it.
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
    """Leave the folder that Hydra has gone into; of commands whose results have their own place."""
    os.chdir(HydraConfig.get().runtime.cwd)

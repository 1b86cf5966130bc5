"""Compose a training configuration without the command line, for notebooks and tests."""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffusion_lab.config.error_message import one_line
from diffusion_lab.config.resolvers import register
from diffusion_lab.config.search_path import CONFIG_DIR, warn_of_hidden_files
from diffusion_lab.errors import UserError


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Clear Hydra's global state within the context and restore the caller's state on exit."""
    theirs, version = GlobalHydra.instance().hydra, VersionBase.instance().getbase()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = theirs
        if theirs is not None and version is not None:
            VersionBase.instance().setbase(version)


def compose_config(
    overrides: Sequence[str] = (), output_dir: str | Path | None = None
) -> DictConfig:
    """Return the configuration that `scripts/train.py <overrides>` would train with.

    `output_dir` is the run folder; the default is a new folder in `<paths.log_dir>/runs`. Raises
    UserError for an unknown option, key or value. Does not change the caller's own Hydra state.
    """
    register("train")
    try:
        with _own_hydra(), initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose("train", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(one_line(error) or str(error)) from error
    warn_of_hidden_files(overrides)
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    model = cfg.hydra.runtime.choices.model
    name = f"{stamp}_{model}_{secrets.token_hex(3)}"
    folder = Path(output_dir or Path(cfg.paths.log_dir, "runs", name))
    cfg.command.overrides = list(overrides)
    cfg.command.choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.paths.output_dir = str(folder.absolute())
    return cfg

"""Check a configuration before torch is imported, because this import takes seconds.

The commands repeat these checks, because notebooks call the commands' functions directly.
"""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.limits import check_limits
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import check_keys, check_one_initial_network, check_seed
from diffusion_lab.errors import UserError
from diffusion_lab.runs.state import checkpoint_file


def check_run_option(cfg: DictConfig) -> None:
    """Raise UserError if `run=` names no run folder, or a run without the chosen checkpoint."""
    run = _given(cfg, "run")
    if isinstance(run, str) and run:
        checkpoint_file(run, _given(cfg, "checkpoint") or "last")


def check_training(cfg: DictConfig) -> None:
    """Raise UserError for an unknown key, an invalid limit or seed, or a missing folder."""
    check_keys(cast(dict[str, Any], OmegaConf.to_container(cfg)), TrainConfig)
    check_limits(cfg)
    check_seed(cfg.seed)
    check_one_initial_network(cfg)
    if teacher := _given(cfg, "teacher.run"):
        try:
            checkpoint_file(teacher)
        except UserError as error:
            raise UserError(f"teacher.{error}") from error  # teacher.run=x is no folder: ...
    pipeline = _given(cfg, "init_from")
    if pipeline and not Path(pipeline).expanduser().exists():
        raise UserError(
            f"init_from={pipeline} does not exist: type init_from=<folder of a diffusers pipeline>"
        )


def _given(cfg: DictConfig, key: str) -> Any:
    return OmegaConf.select(cfg, key, throw_on_missing=False)

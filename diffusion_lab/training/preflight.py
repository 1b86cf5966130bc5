"""Check a configuration before anything is built or loaded."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig

from diffusion_lab.config.limits import check_limits, seconds_of
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import check_config, validate
from diffusion_lab.errors import UserError
from diffusion_lab.training.checks import check_network
from diffusion_lab.training.initialization import InitialState, read_initial_state
from diffusion_lab.training.resume import Start

_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,  # all batches
}


def preflight(start: Start) -> InitialState:
    """Check the configuration before images are loaded and the model is built.

    Returns the initial state: pretrained weights or a teacher, if any.

    Updates `start.config` with the parts of a pipeline (init_from=) or a teacher (teacher.run=).
    Raises UserError for the first mistake.
    """
    validate(start.config, TrainConfig)
    if start.cfg.replay is not None:
        raise UserError(
            "replay= has no effect without debug=replay: type debug=replay replay=<run "
            "folder>/anomaly.pt, or leave out replay= to train"
        )
    continued = start.checkpoint is not None
    initial, start.config = read_initial_state(
        start.cfg, start.config, start.run_dir, continued, start.trust
    )
    check_config(start.config)
    check_network(start.config)
    check_limits(start.cfg)
    if not continued:  # options of a resumed run were accepted at its start
        check_trainer_options(start.cfg)
    return initial


def check_trainer_options(cfg: DictConfig) -> None:
    """Raise UserError for an option of the Trainer that is out of range."""
    for name, least in _LEAST.items():
        value = cfg.trainer.get(name)
        if value is not None and value < least:
            raise UserError(f"trainer.{name}={value}: expected a whole number, at least {least}")
    _check_interval(cfg.trainer.get("val_check_interval"))
    profiler = cfg.trainer.get("profiler")
    if profiler and not isinstance(profiler, str | DictConfig):
        raise UserError(f"trainer.profiler={profiler}: expected simple, advanced, pytorch or null")
    ends = (cfg.trainer.max_epochs, cfg.trainer.max_time)
    if ends == (None, None) and cfg.trainer.max_steps in (None, -1):
        raise UserError(
            "trainer.max_epochs=null means Lightning's default of 1,000 epochs: type a limit, for "
            "example trainer.max_epochs=10, trainer.max_steps=5000 or "
            "trainer.max_time=00:01:00:00, or type trainer.max_epochs=-1 for no limit"
        )


def _check_interval(value: Any) -> None:
    """Raise UserError for a trainer.val_check_interval that is out of range.

    Accepted are None, a number of batches, a fraction of an epoch in (0, 1], and a time.
    """
    if value is None:
        return
    if isinstance(value, str | Mapping | DictConfig):
        with suppress(UserError):
            if seconds_of(value):
                return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (whole and value >= 1) or (isinstance(value, float) and 0 < value <= 1):
        return
    raise UserError(
        f"trainer.val_check_interval={value}: expected a number of batches, a fraction of an epoch "
        "between 0 and 1, or a time such as 00:00:02:00 for two minutes; "
        "type trainer.limit_val_batches=0 for no validation"
    )

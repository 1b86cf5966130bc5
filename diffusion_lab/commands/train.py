"""scripts/train.py: train, or run a step of a diverged run again."""

import gc
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.errors import UserError
from diffusion_lab.system.output import write_json
from diffusion_lab.training.replay import replay
from diffusion_lab.training.summary import summary
from diffusion_lab.training.train import say, train

log = logging.getLogger(__name__)


def run_job(
    cfg: DictConfig, resume: bool = False, trust: Sequence[str] | None = None
) -> float | None:
    """The task of scripts/train.py: train, print a table and the run folder.

    Returns the monitored metric for a sweeper, None where it was not measured.
    """
    if Path(cfg.paths.output_dir) != Path(HydraConfig.get().runtime.output_dir):
        raise UserError("paths.output_dir follows the run: choose a folder with hydra.run.dir=")
    began = time.perf_counter()
    result = train(cfg, resume, trust)
    say(summary(result.metrics, result.trainer, time.perf_counter() - began))
    value = result.metrics.get(cfg.monitor)
    rank_zero_only(print)(result.run_dir)
    # the jobs of a sweep share this process: leave no model behind in it
    del result
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return value


_OWN_WORDS = ("debug=", "replay=", "trust=", "paths.log_dir=", "hydra")


def replay_job(cfg: DictConfig) -> None:
    """The task of `scripts/train.py debug=replay`: print what was seen and leave replay.json."""
    if OmegaConf.is_missing(cfg, "replay") or not cfg.replay:
        raise UserError("replay= is missing: type debug=replay replay=<run folder>/anomaly.pt")
    idle = [word for word in cfg.command.overrides if not word.lstrip("+~").startswith(_OWN_WORDS)]
    if idle:
        raise UserError(
            f"debug=replay takes everything but replay= and trust= from the file: leave out "
            f"{' '.join(idle)}"
        )
    seen = replay(cfg.replay, cfg.trust)
    out = Path(HydraConfig.get().runtime.output_dir)
    name, value = seen.largest_gradient
    for index, loss in zip(seen.indices, seen.losses, strict=True):
        log.info("train:%d  loss %.9g", index, loss)
    log.info("the run said: %s", seen.message)
    log.info("loss %.9g, %s", seen.loss, "as in the run" if seen.same else "another than the run's")
    log.info("first not finite: %s", seen.first or "nothing")
    log.info("largest gradient: %g in %s", value, name)
    log.info("gradients not finite: %s", ", ".join(seen.gradients) or "none")
    write_json(out / "replay.json", _as_text(vars(seen)))
    print(out)


def _as_text(value: Any) -> Any:
    """The same with "nan", "inf" and "-inf" for the numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {k: _as_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(v) for v in value]
    infinite = isinstance(value, float) and not torch.tensor(value).isfinite()
    return str(value) if infinite else value

"""scripts/train.py: train, or replay the step at which a run diverged."""

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
from diffusion_lab.training.train import log_line, train

log = logging.getLogger(__name__)


def run_job(
    cfg: DictConfig, resume: bool = False, trust: Sequence[str] | None = None
) -> float | None:
    """Train from a composed configuration; print the table of metrics and the run folder.

    Returns the metric of monitor=, which a Hydra sweeper may minimise; None if it was not measured.
    """
    if Path(cfg.paths.output_dir) != Path(HydraConfig.get().runtime.output_dir):
        raise UserError(
            "paths.output_dir= cannot be set, because it is the run folder: type "
            "hydra.run.dir=<folder>"
        )
    began = time.perf_counter()
    result = train(cfg, resume, trust)
    log_line(summary(result.metrics, result.trainer, time.perf_counter() - began))
    value = result.metrics.get(cfg.monitor)
    rank_zero_only(print)(result.run_dir)
    # the jobs of a sweep share this process: free the memory of this job's model
    del result
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return value


_REPLAY_OPTIONS = ("debug=", "replay=", "trust=", "paths.log_dir=", "hydra")


def replay_job(cfg: DictConfig) -> None:
    """Replay the diverged step saved in an anomaly.pt; log its losses and write replay.json."""
    if OmegaConf.is_missing(cfg, "replay") or not cfg.replay:
        raise UserError("replay= is missing: type debug=replay replay=<run folder>/anomaly.pt")
    given = cfg.command.overrides
    idle = [word for word in given if not word.lstrip("+~").startswith(_REPLAY_OPTIONS)]
    if idle:
        raise UserError(
            "debug=replay accepts replay= and trust= only, because the replayed file holds all "
            f"other settings: leave out {' '.join(idle)}"
        )
    seen = replay(cfg.replay, cfg.trust)
    out = Path(HydraConfig.get().runtime.output_dir)
    name, value = seen.largest_gradient
    for index, loss in zip(seen.indices, seen.losses, strict=True):
        log.info("train:%d  loss %.9g", index, loss)
    log.info("message of the run: %s", seen.message)
    same = "as in the run" if seen.same else "unlike the run's"
    log.info("loss %.9g, %s", seen.loss, same)
    log.info("first non-finite value: %s", seen.first or "none")
    log.info("largest gradient: %g in %s", value, name)
    log.info("non-finite gradients: %s", ", ".join(seen.gradients) or "none")
    write_json(out / "replay.json", _as_text(vars(seen)))
    print(out)


def _as_text(value: Any) -> Any:
    """Copy a value with "nan", "inf" and "-inf" as text, since JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {k: _as_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(v) for v in value]
    infinite = isinstance(value, float) and not torch.tensor(value).isfinite()
    return str(value) if infinite else value

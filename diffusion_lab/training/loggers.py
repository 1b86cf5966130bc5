"""TensorBoard and the others: made, told what a run is, told what came of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.instantiate import build
from diffusion_lab.errors import UserError
from diffusion_lab.training.continued_logs import forget_hyper_parameters, keep_rows
from diffusion_lab.training.summary import compared, hyper_parameters

_RUN_NAMES = {"mlflow": "run_name", "wandb": "name"}
"""The arguments of loggers that name a run: left out, MLflow names all runs of a seed alike."""


def run_name(folder: str | Path) -> str:
    """Return the name of a run folder; of a job of a sweep with the sweep's, for it is a number."""
    path = Path(folder)
    return f"{path.parent.name}/{path.name}" if path.name.isdigit() else path.name


def build_loggers(cfg: DictConfig, first_step: int | None = None) -> list[Logger]:
    """The loggers; UserError for one whose package is not installed.

    A run that is taken up at `first_step` has that step and later ones of TensorBoard and CSV
    forgotten: they were logged after its last checkpoint.
    """
    if cfg.trainer.fast_dev_run:  # Lightning would not use them
        return []
    loggers: list[Logger] = []
    for name, node in (cfg.logger or {}).items():
        if node is None:
            continue
        more: dict[str, Any] = {}
        if name == "tensorboard" and first_step is not None:
            more["purge_step"] = first_step
        argument = _RUN_NAMES.get(name)
        if argument is not None and node.get(argument) is None:
            more[argument] = run_name(cfg.paths.output_dir)
        try:
            loggers.append(build(node, **more))
        except Exception as error:
            if any(isinstance(e, ModuleNotFoundError) for e in (error, error.__cause__)):
                raise UserError(
                    f"logger={name} needs a package that is not installed: "
                    f"pip install 'diffusion-lab[{name}]'"
                ) from error
            raise
        if first_step is not None and isinstance(loggers[-1], CSVLogger):
            keep_rows(loggers[-1], first_step)
        if first_step is not None and isinstance(loggers[-1], TensorBoardLogger):
            forget_hyper_parameters(Path(loggers[-1].log_dir))
    return loggers


def introduce(
    loggers: Iterable[Logger], config: dict[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Tell them the configuration and the data of the run that begins."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, content in {"config": config, "data": provenance}.items():
                logger.experiment.add_text(name, f"```yaml\n{OmegaConf.to_yaml(content)}```")
        else:
            logger.log_hyperparams(hyper_parameters(config, provenance))


def let_go(loggers: Iterable[Logger]) -> None:
    """End what would last longer than the run, however it ended."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):  # or the next job of a sweep goes on in its run
            rank_zero_only(logger.experiment.finish)()


def conclude(
    loggers: Iterable[Logger], config: dict[str, Any], metrics: Mapping[str, float], step: int
) -> None:
    """Give the HPARAMS tab what a finished run came to."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # its own prefix: the curves stay as they are
            final = {f"final/{k}": v for k, v in metrics.items()}
            logger.log_hyperparams(compared(config), final, step)
            logger.finalize("success")

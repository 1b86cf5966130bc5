"""Build the loggers, and log a run's configuration and its final metrics.

A resumed run also logs the metrics that were lost when the run was stopped.
"""

import csv
import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.instantiate import build
from diffusion_lab.errors import UserError
from diffusion_lab.runs.checkpoint import Checkpoint
from diffusion_lab.system.atomic import replacing
from diffusion_lab.training.summary import compared, hyper_parameters

_RUN_NAMES = {"mlflow": "run_name", "wandb": "name"}
"""Logger -> argument for the run's name; MLflow would name the runs of all seeds alike."""


def run_name(folder: str | Path) -> str:
    """Return the name of a run folder; <sweep>/<number> for a job of a sweep."""
    path = Path(folder)
    return f"{path.parent.name}/{path.name}" if path.name.isdigit() else path.name


def build_loggers(cfg: DictConfig, first_step: int | None = None) -> list[Logger]:
    """Build the loggers; UserError for one whose package is not installed.

    For a run resumed at `first_step`, entries from this step on are removed from TensorBoard and
    CSV, because they were logged after the checkpoint and will be logged again.
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
                    f"logger={name} needs a package that is not installed: type "
                    f"pip install 'diffusion-lab[{name}]'"
                ) from error
            raise
        if first_step is not None and isinstance(loggers[-1], CSVLogger):
            keep_rows(loggers[-1], first_step)
        if first_step is not None and isinstance(loggers[-1], TensorBoardLogger):
            forget_hyper_parameters(Path(loggers[-1].log_dir))
    return loggers


def log_config(
    loggers: Iterable[Logger], config: dict[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Log the configuration and the data's provenance to all loggers."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, content in {"config": config, "data": provenance}.items():
                logger.experiment.add_text(name, f"```yaml\n{OmegaConf.to_yaml(content)}```")
        else:
            logger.log_hyperparams(hyper_parameters(config, provenance))


def close(loggers: Iterable[Logger]) -> None:
    """Finish runs of Weights & Biases, so that the next run does not log to them."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):  # for the jobs of a sweep, which share a process
            rank_zero_only(logger.experiment.finish)()


def log_final_metrics(
    loggers: Iterable[Logger], config: dict[str, Any], metrics: Mapping[str, float], step: int
) -> None:
    """Log settings and final metrics to TensorBoard's HPARAMS tab."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # the prefix keeps them out of the curves
            final = {f"final/{k}": v for k, v in metrics.items()}
            logger.log_hyperparams(compared(config), final, step)
            logger.finalize("success")


@rank_zero_only
def keep_rows(logger: CSVLogger, first_step: int) -> None:
    """Keep the rows of metrics.csv before `first_step`, which Lightning would delete on a resume.

    At every moment the rows are in metrics.csv or metrics_before.csv, so that a crash loses none.
    """
    path = Path(logger.log_dir, "metrics.csv")
    aside = path.with_name("metrics_before.csv")
    if path.is_file() and not aside.is_file():
        path.replace(aside)
    if not aside.is_file():
        return
    path.unlink(missing_ok=True)
    with aside.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with warnings.catch_warnings(action="ignore"):  # about files that Lightning deletes
        writer = logger.experiment
    for row in rows:
        # a killed process may have left half a line
        if (row["step"] or "").isdecimal() and int(row["step"]) < first_step:
            writer.metrics.append({k: v for k, v in row.items() if k and v})
    writer.save()
    aside.unlink()


@rank_zero_only
def forget_hyper_parameters(log_dir: Path) -> None:
    """Remove the hyperparameters that a run logged at its end, before it was resumed.

    TensorBoard's HPARAMS tab shows only the first hyperparameters of a run. The old ones, such as
    the old trainer.max_epochs, would therefore appear beside the new metrics.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    def is_kept(record: bytes) -> bool:
        values = Event.FromString(record).summary.value
        return not any(value.tag.startswith("_hparams_/") for value in values)

    for path in log_dir.glob("events.out.tfevents.*"):
        records = list(RawEventFileLoader(str(path)).Load())
        kept = [record for record in records if is_kept(record)]
        if len(kept) < len(records):
            with replacing(path) as part, part.open("wb") as file:
                writer = RecordWriter(file)
                for record in kept:
                    writer.write(record)


def log_unlogged(trainer: L.Trainer, content: Checkpoint) -> None:
    """Log the metrics that are in the checkpoint but that the stopped run did not log in time."""
    step, pending = content["global_step"] - 1, content.get("pending", {})
    for logger in trainer.loggers if pending else ():
        logged = _logged(logger, step)
        missing: dict[str, Any] = {
            name: value for name, value in pending.items() if name not in logged
        }
        if missing and isinstance(logger, TensorBoardLogger | CSVLogger):
            logger.log_metrics(missing | {"epoch": content["epoch"]}, step)
            logger.save()


def _logged(logger: Logger, step: int) -> set[str]:
    """Return the names of the metrics that TensorBoard or the CSV file has for this step."""
    if isinstance(logger, TensorBoardLogger):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # no warning per restart
        events = EventAccumulator(str(logger.log_dir), size_guidance={"scalars": 0})
        events.Reload()
        names = events.Tags()["scalars"]
        return {n for n in names if step in (event.step for event in events.Scalars(n))}
    path = Path(logger.log_dir or "", "metrics.csv")
    if not isinstance(logger, CSVLogger) or not path.is_file():
        return set()
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["step"] == str(step)]
    return {name for row in rows for name, value in row.items() if value}

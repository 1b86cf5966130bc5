"""Loggers of a run that is taken up again: what they hold stays, and nothing is missing between."""

import csv
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffusion_lab.system.atomic import replacing


@rank_zero_only
def keep_rows(logger: CSVLogger, first_step: int) -> None:
    """Write the rows of before `first_step` anew: Lightning deletes the file of an earlier start.

    At no moment are they in no file.
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
    with warnings.catch_warnings(action="ignore"):  # that it deletes what is set aside
        writer = logger.experiment
    for row in rows:
        # a line that a killed process left half is not a number
        if (row["step"] or "").isdecimal() and int(row["step"]) < first_step:
            writer.metrics.append({k: v for k, v in row.items() if k and v})
    writer.save()
    aside.unlink()


@rank_zero_only
def forget_hyper_parameters(log_dir: Path) -> None:
    """Take from TensorBoard's files what the HPARAMS tab has of an earlier end of this run.

    It shows the first that it finds: old limits would stand beside new metrics.
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


def log_pending(trainer: L.Trainer, content: dict[str, Any]) -> None:
    """Log what the stopped run had in its checkpoint and not in its log yet, if it had not."""
    step, pending = content["global_step"] - 1, content.get("pending", {})
    for logger in trainer.loggers if pending else ():
        there = _logged(logger, step)
        missing = {name: value for name, value in pending.items() if name not in there}
        if missing and isinstance(logger, TensorBoardLogger | CSVLogger):
            logger.log_metrics(missing | {"epoch": content["epoch"]}, step)
            logger.save()


def _logged(logger: Logger, step: int) -> set[str]:
    """The names of the scalars that a log has at this step."""
    if isinstance(logger, TensorBoardLogger):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every restart
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

"""Settings that a stop must not show in, and everything that a run leaves which could show it."""

import csv
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

BASE = (
    "data=fake",
    "data.num_images=44",  # ten batches an epoch
    "data.val_size=4",
    "data.batch_size=4",
    "model=basic_unet",  # of few tensors: a checkpoint is written after every batch
    "network.channels=[4,4,4]",
    "lr_scheduler=cosine",
    "callbacks=minimal",
    "+callbacks.samples={_target_: diffusion_lab.callbacks.SampleGrid, "
    "sampler: '${sampler}', num_samples: 2}",
    "sampler.num_steps=2",
    "logger=[csv,tensorboard]",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=3",  # of ten: what is logged moves from epoch to epoch
)
ACROSS = ("trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=7")
STOPPING = (
    "+callbacks.early_stopping={_target_: diffusion_lab.callbacks.EarlyStopping, "
    "monitor: val/loss, patience: 1, min_delta: 9}"
)
SETTINGS: dict[str, tuple[str, ...]] = {
    "epochs": (),
    "steps": ("trainer.max_steps=30",),
    "steps alone": ("trainer.max_epochs=-1", "trainer.max_steps=25"),
    "epochs before steps": ("trainer.max_epochs=2", "trainer.max_steps=99"),
    "time": ("trainer.max_epochs=-1", "trainer.max_time=00:00:00:24"),
    "accumulated": ("trainer.accumulate_grad_batches=4",),
    "accumulated steps": (
        "trainer.accumulate_grad_batches=4",
        "trainer.max_epochs=-1",
        "trainer.max_steps=8",
        "trainer.val_check_interval=3",
    ),
    "accumulated time": (
        "trainer.accumulate_grad_batches=3",
        "trainer.max_epochs=-1",
        "trainer.max_time=00:00:00:24",
    ),
    "validation across epochs": ACROSS,
    "validation across epochs, steps": (*ACROSS, "trainer.max_steps=30"),
    "validation within epochs": ("trainer.val_check_interval=3", "trainer.max_steps=25"),
    "validation after every batch": ("trainer.val_check_interval=1", "trainer.max_epochs=2"),
    "validation every other epoch": ("trainer.check_val_every_n_epoch=2", "trainer.max_steps=30"),
    "no validation": ("data.val_size=0", "data.num_images=40", "monitor=train/loss_epoch"),
    "no validation, steps": (
        "data.val_size=0",
        "data.num_images=40",
        "monitor=train/loss_epoch",
        "trainer.max_steps=30",
    ),
    "fewer batches": ("trainer.limit_train_batches=7",),
    "fewer batches, steps": ("trainer.limit_train_batches=7", "trainer.max_steps=21"),
    "early stopping waits": (STOPPING, "trainer.max_epochs=4", "+trainer.min_epochs=3"),
    "early stopping": (STOPPING, "trainer.max_epochs=5"),
}
"""Overrides on top of BASE: every bound, and every interval that goes by batches or steps."""


def state_of(run: Path) -> dict[str, Any]:
    """Everything that must not depend on how often a run was stopped."""
    checkpoints = {}
    for name in ("last", "best"):
        path = run / "checkpoints" / f"{name}.ckpt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            checkpoints[name] = {
                "weights": state["state_dict"],
                "ema": state["ema"],
                "optimizer": state["optimizer_states"],
                "lr": state["lr_schedulers"],
                "random": state["random"],
                "steps": (state["global_step"], state["epoch"]),
            }
    record = json.loads((run / "metrics.json").read_text())
    names = ("status", "epoch_losses", "best", "steps", "metrics")
    return {
        **checkpoints,
        "post_hoc": {
            path.name: torch.load(path, weights_only=True)
            for path in sorted((run / "checkpoints").glob("posthoc/*.pt"))
        },
        "losses": (run / "losses.csv").read_text(),
        "record": {name: record.get(name) for name in names},
        "tensorboard": tensorboard(run),
        "csv": rows_of(run / "csv" / "metrics.csv"),
        "pictures": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((run / "figures").glob("*.png"))
        },
    }


def tensorboard(run: Path) -> dict[str, list[Any]]:
    """(step, value) of every scalar but the speed, and the steps of pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every restart
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "per_second" not in tag]
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
    return scalars | {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV logger, without the speed."""
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return [
            {k: v for k, v in row.items() if v and "per_second" not in k}
            for row in csv.DictReader(file)
        ]

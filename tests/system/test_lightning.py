"""Lightning's private names that interrupting and resuming need: a rename fails here."""

import csv
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from diffusion_lab import compose_config, train
from diffusion_lab.callbacks import TimeLimit
from diffusion_lab.system import lightning
from tests.conftest import RUN


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val", self.layer(batch).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(L.Callback):
    """Record the functions' answers after every batch, and what Lightning then does."""

    def __init__(self, stop_after=None):
        self.answers, self.steps, self.validated, self.stop_after = [], [], [], stop_after

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.stop_after:
            trainer.should_stop = True
        self.answers.append(
            {
                "accumulates": lightning.accumulates(trainer),
                "due": lightning.validation_is_due(trainer),
                "stops": lightning.will_stop(trainer),
                "gathered": lightning.gathered_batches(trainer),
                "logged": lightning.logged_step(trainer),
                "logs": lightning.logs_step(trainer),
            }
        )
        self.steps.append(trainer.global_step)
        self.validated.append(0)

    def on_validation_end(self, trainer, module):
        self.validated[-1] += 1


def watched(stop_after=None, **settings):
    watch = Watch(stop_after)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[watch],
        **settings,
    )
    images = torch.randn(10, 2)
    trainer.fit(Net(), DataLoader(images), DataLoader(images[:1]))
    return watch


def answers(watch, key):
    return [answer[key] for answer in watch.answers]


def test_gradient_accumulation_groups():
    watch = watched(max_epochs=2, accumulate_grad_batches=4)
    assert answers(watch, "gathered") == [4] * 8 + [2] * 2 + [4] * 8 + [2] * 2
    stepped = [b > a for a, b in zip([0, *watch.steps], watch.steps, strict=False)]
    assert [not waits for waits in answers(watch, "accumulates")] == stepped
    before = [0, *watch.steps][:-1]
    assert answers(watch, "logged") == before


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"val_check_interval": 3},
        {"check_val_every_n_epoch": None, "val_check_interval": 7},
        {"check_val_every_n_epoch": 2},
        {"limit_train_batches": 4},
        {"min_epochs": 2, "stop_after": 3},
        {"stop_after": 3},
    ],
    ids=str,
)
def test_validation_runs_exactly_when_due(settings):
    watch = watched(max_epochs=3, **settings)
    assert [int(due) for due in answers(watch, "due")] == watch.validated
    assert answers(watch, "stops")[:-1].count(True) == 0


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"max_steps": 13}, 13), ({"stop_after": 4}, 4), ({"stop_after": 4, "min_epochs": 2}, 20)],
)
def test_will_stop_is_true_at_the_last_step_only(settings, steps):
    watch = watched(**{"max_epochs": 3, **settings})
    assert watch.steps[-1] == steps
    if steps != 20:  # there the epoch counts as done only afterwards
        assert answers(watch, "stops")[-1]
    assert not any(answers(watch, "stops")[:-1])


def test_epoch_counts_of_a_checkpoint_at_the_end_of_an_epoch(tmp_path):
    train(compose_config([*RUN, "trainer.max_epochs=1"], tmp_path / "whole"))
    overrides = [
        *RUN,
        "trainer.limit_train_batches=2",
        "trainer.max_epochs=2",
        "trainer.max_steps=3",
    ]
    train(compose_config(overrides, tmp_path / "cut"))
    for name, cut, epochs in (("whole", False, 1), ("cut", True, 1)):
        state = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        loops = state["loops"]["fit_loop"]
        assert lightning.was_cut(loops) == cut
        assert lightning.finished_epochs(loops) == epochs
        lightning.settle(loops)
        for count in loops["epoch_progress"].values():
            assert count["completed"] == count["processed"] == count["ready"] - cut


def test_time_limit_saves_the_same_state_as_lightnings_timer():
    ours, theirs = TimeLimit(5.0), Timer("00:00:00:05")
    assert ours.state_key == theirs.state_key
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict({"time_elapsed": {"train": 3.0}})
    theirs.load_state_dict({"time_elapsed": {"train": 3.0}})
    assert ours.time_elapsed() == theirs.time_elapsed() == 3.0
    assert ours.time_remaining() == theirs.time_remaining() == 2.0


class Saves(lightning.CheckpointHooks):
    stale, at_epoch_end = False, False

    def is_stale(self, trainer):
        return self.stale

    def saves_at_epoch_end(self):
        return self.at_epoch_end


class Stops(lightning.EarlyStoppingHooks):
    stale, at_epoch_end = False, False

    def is_stale(self, trainer):
        return self.stale

    def checks_at_epoch_end(self):
        return self.at_epoch_end


def fitted(callback, *, val=None, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        accelerator="cpu", num_sanity_val_steps=0, callbacks=[callback], **quiet, **settings
    )
    images = torch.randn(10, 2)
    trainer.fit(val or Net(), DataLoader(images), DataLoader(images[:1]))
    return trainer


@pytest.mark.parametrize(("stale", "saved"), [(False, True), (True, False)])
def test_a_stale_metric_is_not_saved(stale, saved, tmp_path):
    callback = Saves(dirpath=tmp_path, monitor="val")
    callback.stale = stale
    fitted(callback, max_epochs=1)
    assert bool(list(tmp_path.glob("*.ckpt"))) == saved


@pytest.mark.parametrize(("at_epoch_end", "steps"), [(False, {5, 10}), (True, {10})])
def test_saves_at_epoch_end_decides_when_to_save(at_epoch_end, steps, tmp_path):
    callback = Saves(dirpath=tmp_path, monitor="val", save_top_k=-1, filename="{step}")
    callback.at_epoch_end = at_epoch_end
    fitted(callback, max_epochs=1, val_check_interval=5)
    assert {int(path.stem.removeprefix("step=")) for path in tmp_path.glob("*.ckpt")} == steps


class Rising(Net):
    """A network whose validation metric gets worse."""

    def validation_step(self, batch, batch_idx):
        self.log("val", float(self.global_step))


@pytest.mark.parametrize(
    ("stale", "at_epoch_end", "steps"), [(False, False, 4), (False, True, 20), (True, False, 40)]
)
def test_checks_at_epoch_end_decides_when_early_stopping_checks(stale, at_epoch_end, steps):
    """Stops at the second check: the first metric is the best so far, the second is no better."""
    callback = Stops(monitor="val", patience=1)
    callback.stale, callback.at_epoch_end = stale, at_epoch_end
    settings = {"max_epochs": 4, "val_check_interval": 2, "enable_checkpointing": False}
    assert fitted(callback, val=Rising(), **settings).global_step == steps


def test_logged_metrics_and_their_step(tmp_path):
    """A logger gets the metrics of Lightning, under the shifted step number."""
    seen = []

    class Logs(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    class Read(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            value = lightning.metrics_to_log(trainer)["loss"]
            seen.append((float(value), float(outputs["loss"])))
            if batch_idx == 0:
                lightning.move_logged_step(trainer, 100)

    logger = CSVLogger(tmp_path)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=3,
        log_every_n_steps=1,
        logger=logger,
        callbacks=[Read()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Logs(), DataLoader(torch.randn(10, 2)))
    assert all(a == b for a, b in seen) and len(seen) == 3
    assert [row["step"] for row in logger.experiment.metrics] == []  # all are written
    with Path(logger.log_dir, "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [100, 101, 102]

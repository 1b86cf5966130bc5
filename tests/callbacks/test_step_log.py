"""One row per logged step, whatever the interval, written during training."""

import csv

import lightning as L
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion_lab import compose_config, train
from diffusion_lab.callbacks import FiniteLoss, StepLog, Throughput
from diffusion_lab.callbacks.monitoring import step_log
from diffusion_lab.config.instantiate import build
from tests.conftest import TINY

RUN = (*TINY, "network.channels=[4,4]", "data.num_images=400", "data.batch_size=4", "logger=many")


def rows_of(folder):
    """Read the rows of the steps, without Lightning's separate rows of the learning rate."""
    with (folder / "csv" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


def steps_of(folder, tag):
    return [event.step for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("trainer.log_every_n_steps=4", "trainer.limit_train_batches=10"), [3, 7, 11, 15, 19]),
        (("trainer.log_every_n_steps=15", "trainer.limit_train_batches=10"), [14]),
        (
            (
                "trainer.log_every_n_steps=2",
                "trainer.accumulate_grad_batches=3",
                "trainer.limit_train_batches=12",
            ),
            [1, 3, 5, 7],
        ),
        # told to stop by the clock after its first step, it has to go on
        (
            (
                "trainer.log_every_n_steps=4",
                "trainer.limit_train_batches=5",
                "trainer.max_time={microseconds:1}",
                "+trainer.min_steps=10",
            ),
            list(range(1, 10)),
        ),
    ],
)
def test_loss_and_speed_share_one_row_per_step(words, steps, tmp_path):
    train(compose_config([*RUN, "trainer.max_epochs=2", *words], tmp_path))
    rows = rows_of(tmp_path)
    assert [int(row["step"]) for row in rows] == steps
    assert all(float(row["images_per_second"]) > 0 and row["epoch"] in "01" for row in rows)
    assert steps_of(tmp_path, "train/loss") == steps
    assert steps_of(tmp_path, "images_per_second") == steps


@pytest.mark.slow
def test_log_is_written_during_training(tmp_path, monkeypatch):
    """Also by the logger that keeps a hundred steps; no more often than need be."""
    found = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            path = tmp_path / "csv" / "metrics.csv"
            found.append(len(rows_of(tmp_path)) if path.exists() else 0)

    begin = FiniteLoss.on_fit_start

    def on_fit_start(self, trainer, pl_module):
        trainer.callbacks.append(Watch())
        begin(self, trainer, pl_module)

    monkeypatch.setattr(FiniteLoss, "on_fit_start", on_fit_start)
    clock = iter(range(100, 1000, 2))  # two seconds a look
    monkeypatch.setattr(step_log, "monotonic", lambda: next(clock))
    words = ["trainer.limit_train_batches=9", "trainer.log_every_n_steps=1"]
    train(compose_config([*RUN, *words], tmp_path))
    assert found == [1, 1, 1, 4, 4, 4, 7, 7, 7]


def test_callback_logs_the_loss_in_any_trainer(tmp_path):
    cfg = compose_config([*RUN, "model.num_classes=null"], tmp_path)
    module, data = build(cfg.model), build(cfg.data)
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *args):
            seen.append((trainer.logged_metrics["train/loss"].item(), outputs["loss"].item()))
            assert "train/loss" in trainer.progress_bar_metrics

    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(
        max_epochs=1,
        log_every_n_steps=1,
        limit_train_batches=3,
        accelerator="cpu",
        callbacks=[StepLog(), Watch()],
        **settings,
    ).fit(module, data)
    assert len(seen) == 3 and all(a == pytest.approx(b) for a, b in seen)


@pytest.mark.slow
def test_raised_limit_counts_from_the_first_step(typed, tmp_path):
    words = [*RUN, "lr_scheduler=cosine", "trainer.limit_train_batches=5"]
    each = "trainer.log_every_n_steps=1"
    assert typed("train", *words, each, "trainer.max_epochs=2", "hydra.run.dir=run")[0] == 0
    assert typed("train", "resume=run", "trainer.max_epochs=4")[0] == 0
    events = EventAccumulator(str(tmp_path / "run")).Reload().Scalars("lr")
    rates = {event.step: event.value for event in events}
    from diffusion_lab.optim.lr_schedule import Cosine

    schedule = Cosine(warmup=0.05)
    assert [rates[i] for i in range(10, 20)] == pytest.approx(
        [1e-3 * schedule(i / 20) for i in range(10, 20)], rel=1e-5
    )


def test_speed_of_a_run_resumed_within_an_epoch(tmp_path):
    """Its first rate is of its own steps, not of the time since the machine started."""
    throughput = Throughput()
    throughput.on_train_start(None, None)
    throughput._images = 100
    assert throughput.measured() > 1000

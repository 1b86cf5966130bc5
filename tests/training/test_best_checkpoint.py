"""A training that cannot write best.ckpt logs a warning at its start, and no other does."""

import logging
import warnings

import pytest

from diffusion_lab import compose_config, train
from tests.cli.test_bad_input import assert_refused
from tests.conftest import EXHAUSTIVE, RUN

EVERY = "trainer.check_val_every_n_epoch"
STEPS = "trainer.val_check_interval"


SETTINGS = [
    [],
    ["trainer.limit_val_batches=0"],
    ["trainer.limit_val_batches=0", "monitor=train/loss_epoch"],
    ["trainer.limit_val_batches=0", "monitor=train/loss_epoch", f"{EVERY}=2"],
    ["trainer.limit_val_batches=0", "trainer.max_steps=3"],
    ["data.val_size=0", "monitor=train/loss_epoch"],
    ["data.val_size=0", "monitor=train/loss_epoch", f"{EVERY}=2"],
    [f"{EVERY}=2"],
    [f"{EVERY}=3"],
    [f"{EVERY}=3", "monitor=train/loss_epoch"],
    [f"{EVERY}=3", "trainer.max_epochs=-1", "trainer.max_steps=6"],
    [f"{EVERY}=3", "trainer.max_steps=3"],
    [f"{EVERY}=null", f"{STEPS}=4"],
    [f"{EVERY}=null", f"{STEPS}=5"],
    [f"{EVERY}=null", f"{STEPS}=5", "monitor=train/loss_epoch"],
    [f"{EVERY}=null", f"{STEPS}=5", "trainer.max_epochs=-1", "trainer.max_steps=3"],
    [f"{EVERY}=null", f"{STEPS}=12", "trainer.limit_train_batches=null"],
    [f"{EVERY}=null", f"{STEPS}=20", "trainer.limit_train_batches=0.5"],
    [f"{STEPS}=0.5", "monitor=train/loss_epoch"],
    [f"{STEPS}=0.5", "monitor=train/loss"],
    [f"{EVERY}=2", "monitor=train/loss", "trainer.limit_val_batches=0"],
    [f"{EVERY}=1", "monitor=train/loss", "trainer.limit_val_batches=0"],
    [f"{EVERY}=3", "monitor=train/loss"],
    ["callbacks.best=null"],
    [
        "callbacks=fid",
        "callbacks.samples=null",
        "callbacks.figures=null",
        "monitor=val/fid",
        "callbacks.fid.every_n_epochs=5",
        "callbacks.fid.num_samples=70",
        "extractor",
    ],
    [
        "callbacks=fid",
        "callbacks.samples=null",
        "callbacks.figures=null",
        "monitor=val/fid",
        "callbacks.fid.num_samples=70",
        "trainer.limit_val_batches=0",
        "extractor",
    ],
]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=((), pytest.mark.slow, EXHAUSTIVE)[k % 3])
        for k, words in enumerate(SETTINGS)
    ],
)
def test_warning_if_there_will_be_no_best_checkpoint(words, tmp_path, caplog, request):
    words = [
        f"callbacks.fid.extractor={request.getfixturevalue('bars')}" if w == "extractor" else w
        for w in words
    ]
    with caplog.at_level(logging.WARNING), warnings.catch_warnings(record=True) as warned:
        train(compose_config([*RUN, "logger=csv", *words], tmp_path / "run"))
    lines = [r.message for r in caplog.records if "no best.ckpt will be written: " in r.message]
    missing = not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    assert len(lines) == missing
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    # nor does Lightning say it in its own words
    told = [str(w.message) for w in warned]
    assert not [m for m in told if "Total length" in m or "could not find the monitored" in m]


def test_early_stopping_without_validation_is_rejected(typed):
    words = (*RUN, "callbacks=early_stopping", "trainer.limit_val_batches=0")
    assert_refused(
        typed("train", *words), "trainer.limit_val_batches=0", "monitor=train/loss_epoch"
    )


def test_no_warning_for_a_training_without_checkpoints(tmp_path, caplog):
    train(compose_config([*RUN, "callbacks=none", "logger=csv"], tmp_path / "run"))
    assert "best.ckpt" not in caplog.text


@pytest.mark.parametrize("interval", [f"{STEPS}=0.5", f"{EVERY}=2"])
def test_early_stopping_by_the_training_loss_without_validation(interval, tmp_path):
    words = ["callbacks=early_stopping", "callbacks.figures=null", "callbacks.samples=null"]
    words += ["monitor=train/loss_epoch", interval, "logger=csv", "optimizer.lr=0"]
    words += ["trainer.max_epochs=9", "callbacks.early_stopping.patience=1"]
    result = train(
        compose_config([*RUN, *words, "+callbacks.early_stopping.min_delta=9"], tmp_path)
    )
    assert result.trainer.current_epoch == 2  # one that is taken as best, one without patience

"""A stopped and resumed run leaves the same files as one never stopped, bit for bit.

Every setting of support/resume_settings.py: killed after a save of each kind, in the middle of a
step and of a validation, and stopped by SIGTERM. `EVERY_PLACE=1` tries every step, validation and
save.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest
from tensorboard.summary.writer import event_file_writer

from diffusion_lab import compose_config, train
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs import checkpoint as checkpoint_io
from diffusion_lab.runs.checkpoint import SafeCheckpointIO
from diffusion_lab.system.signals import Stopped
from diffusion_lab.training.rerun import differences
from tests.conftest import EXHAUSTIVE
from tests.support.resume_settings import BASE, SETTINGS, state_of

EVERY_PLACE = os.environ.get("EVERY_PLACE") == "1"
FAST = ("accumulated steps",)
"""Those of the quick tests; the rest is slow."""
FURTHER = ("validation after every batch", "validation every other epoch", "fewer batches")
WITHIN = {
    "epochs": "early stopping waits",
    "epochs before steps": "steps",
    "accumulated time": "accumulated steps",
    "validation within epochs": "validation after every batch",
    "steps alone": "steps",
    "accumulated": "accumulated steps",
    "validation across epochs": "validation across epochs, steps",
    "no validation": "no validation, steps",
    "fewer batches, steps": "fewer batches",
    "early stopping": "early stopping waits",
}
"""Settings of which another one has every part; tried with EVERY_PLACE."""
# TensorBoard reads files by name, which ends in a number: of one second, .9 comes
# after .10
event_file_writer._global_uid = event_file_writer.AtomicCounter(1_000_000)
LATCHED = ("a step", 25)  # told to stop after step 20, and not to before step 30


class Clock:
    """Clock that only training steps advance."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def place_of(checkpoint):
    """Place in the loop at which a checkpoint was saved."""
    loops = checkpoint["loops"]["fit_loop"]
    epoch, batch = (
        loops[name]["current"] for name in ("epoch_progress", "epoch_loop.batch_progress")
    )
    if epoch["processed"] == epoch["ready"]:
        return "saved at an epoch's end"
    after_step = batch["completed"] < batch["ready"]
    return "saved after a step" if after_step else "saved after a validation"


class Run:
    """A training of a setting in a folder, which may be observed and resumed."""

    def __init__(self, monkeypatch, folder, setting):
        self.monkeypatch, self.folder, self.words = monkeypatch, folder, SETTINGS[setting]
        self.counts = {}

    def train(self, at=None, resume=False, every_seconds=60):
        """`at` is called with what happens, and how often that has happened."""
        clock = Clock()
        step, validation = DiffusionModule.training_step, DiffusionModule.validation_step
        save = SafeCheckpointIO.save_checkpoint

        def happens(what):
            self.counts[what] = self.counts.get(what, 0) + 1
            if at is not None:
                at(what, self.counts[what])

        def training_step(module, batch, batch_idx):
            happens("a step")
            clock.now += 1
            return step(module, batch, batch_idx)

        def validation_step(module, batch, batch_idx):
            happens("a validation")
            return validation(module, batch, batch_idx)

        def save_checkpoint(io, checkpoint, path, storage_options=None):
            save(io, checkpoint, path, storage_options)
            if Path(path).name == "last.ckpt":
                happens(place_of(checkpoint))

        words = [*BASE, *self.words, f"callbacks.last.every_seconds={every_seconds}"]
        with self.monkeypatch.context() as patch:
            patch.setattr(DiffusionModule, "training_step", training_step)
            patch.setattr(DiffusionModule, "validation_step", validation_step)
            patch.setattr(SafeCheckpointIO, "save_checkpoint", save_checkpoint)
            patch.setattr(os, "fsync", lambda file: None)
            if not resume:  # what is written here is read when it is resumed from
                patch.setattr(checkpoint_io, "read_checkpoint", lambda path: None)
            train(compose_config(words, self.folder), resume=resume, clock=clock)
        return self

    def state(self):
        return state_of(self.folder)


def chosen(counts):
    """Choose the moments of a run to stop at: (event, number)."""
    for what, count in counts.items():
        if EVERY_PLACE:
            yield from ((what, number) for number in range(1, count + 1))
        elif what.startswith("saved"):
            yield what, min(2, count)


def killed(monkeypatch, tmp_path, setting):
    """Yield (moment, run) after SIGKILL, from a copy of the folder, and after SIGTERM."""
    moments = {}

    def copy(what, number):
        if (tmp_path / "often" / "checkpoints" / "last.ckpt").exists():
            moments[what, number] = tmp_path / f"{what} {number}"
            shutil.copytree(tmp_path / "often", moments[what, number])

    often = Run(monkeypatch, tmp_path / "often", setting).train(copy, every_seconds=0)
    yield "saved often", often
    for moment in chosen(often.counts):
        if moment in moments:
            run = Run(monkeypatch, moments[moment], setting)
            yield f"killed in {moment}", run.train(resume=True)
    yield from stopped(monkeypatch, tmp_path, setting, often.counts)


def stopped(monkeypatch, tmp_path, setting, counts):
    """Yield (moment, run) after SIGTERM, which the run sends to itself."""
    places = [("a step", 10), ("a validation", 2)]  # the last of an epoch, and one in its midst
    if EVERY_PLACE:
        places = [(what, k + 1) for what in ("a step", "a validation") for k in range(counts[what])]
    else:
        places = places[: 1 + ("validation" in setting)]
        places += [LATCHED] * (setting == "early stopping waits")
    for place in places:
        run = Run(monkeypatch, tmp_path / f"stopped in {place}", setting)

        def stop(what, number, place=place):
            if (what, number) == place:
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            run.train(stop)
        except Stopped:
            late = run.counts["a step"] - place[1] if place[0] == "a step" else 0
            assert late < (4 if "accumulated" in setting else 1), f"stopped {late} steps late"
            run.train(resume=True)
        yield f"stopped in {place}", run


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(
            name,
            marks=() if name in FAST else EXHAUSTIVE if name in FURTHER else pytest.mark.slow,
        )
        for name in SETTINGS
        if EVERY_PLACE or name not in WITHIN
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(monkeypatch, tmp_path, setting):
    expected = Run(monkeypatch, tmp_path / "straight", setting).train().state()
    assert expected["record"]["status"] == "finished"
    found = {
        moment: left
        for moment, run in killed(monkeypatch, tmp_path, setting)
        if (left := list(differences(expected, run.state())))
    }
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["accumulated steps", "validation across epochs, steps"])
def test_resume_from_best_alone(monkeypatch, tmp_path, setting):
    """The other checkpoints are damaged; best.ckpt was saved within an epoch."""
    expected = Run(monkeypatch, tmp_path / "straight", setting).train().state()

    def copy(what, number):
        if what == "a step" and number == 15:
            shutil.copytree(tmp_path / "often", tmp_path / "best")

    Run(monkeypatch, tmp_path / "often", setting).train(copy)
    for name in ("last", "previous"):
        (tmp_path / "best" / "checkpoints" / f"{name}.ckpt").unlink(missing_ok=True)
    found = Run(monkeypatch, tmp_path / "best", setting).train(resume=True).state()
    if "accumulated" in setting:  # saved within a group, whose step is not in the log yet
        for state in (expected, found):
            state["csv"] = state["tensorboard"] = None
    assert list(differences(expected, found)) == []


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("steps", "trainer.max_steps=14"),  # within an epoch
        # after a validation
        pytest.param(
            "validation across epochs, steps", "trainer.max_steps=14", marks=pytest.mark.slow
        ),
        pytest.param("time", "trainer.max_time=00:00:00:14", marks=pytest.mark.slow),
        pytest.param("accumulated time", "trainer.max_time=00:00:00:14", marks=pytest.mark.slow),
    ],
)
def test_raised_limit_gives_the_same_weights(monkeypatch, tmp_path, setting, limit):
    """Also within the epoch that the old limit cut, whose end had an extra validation."""
    monkeypatch.setitem(SETTINGS, "raised", (*SETTINGS[setting], "lr_scheduler=none"))
    monkeypatch.setitem(SETTINGS, "low", (*SETTINGS["raised"], limit))
    expected = Run(monkeypatch, tmp_path / "straight", "raised").train().state()
    run = Run(monkeypatch, tmp_path / "run", "low").train()
    run.words = SETTINGS["raised"]
    found = run.train(resume=True).state()
    for name in ("weights", "ema", "optimizer", "random", "steps"):
        assert list(differences(expected["last"][name], found["last"][name])) == [], name
    assert expected["losses"] == found["losses"]
    assert (
        expected["tensorboard"]["train/loss"][:-1]
        == [point for point in found["tensorboard"]["train/loss"] if point[0] % 3 == 2][
            : len(expected["tensorboard"]["train/loss"]) - 1
        ]
    )

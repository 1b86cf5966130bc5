"""The time left counts the progress since this start, also in a resumed run."""

from types import SimpleNamespace

import pytest

from diffusion_lab.callbacks.monitoring import progress_bar
from diffusion_lab.modules import DiffusionModule


@pytest.mark.parametrize("before", [0, 50])
def test_time_left_counts_from_this_start(monkeypatch, before):
    """10 of 100 steps took 30 s, so that 3 s per step remain."""
    module = DiffusionModule.__new__(DiffusionModule)
    monkeypatch.setattr(DiffusionModule, "training_progress", lambda _, step: step / 100)
    clock = iter([7.0, 37.0])
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: next(clock))
    trainer = SimpleNamespace(global_step=before)
    left = progress_bar.TimeLeft(trainer, module)
    assert left.now(trainer, module) == "?"
    trainer.global_step = before + 10
    seconds = 3 * (90 - before)
    assert left.now(trainer, module) == f"0:{seconds // 60:02d}:{seconds % 60:02d}"

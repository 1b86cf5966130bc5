"""Times and speeds, measured with simulated clocks."""

import json
from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.callbacks.checkpoints import last
from diffusion_lab.callbacks.monitoring import throughput
from diffusion_lab.diffusion import Flow, StraightPath
from diffusion_lab.modules import DiffusionModule, cost
from diffusion_lab.networks.fast_unet import FastUNet
from diffusion_lab.runs.record import RunRecord


def test_resumed_run_adds_the_seconds_of_both_starts(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"wall_seconds": 100.0}))
    record = RunRecord(tmp_path, [], 0)
    began = record.started
    record.mark_resumed("last", 5)
    assert record.started == began - 100


def test_images_per_second_sum_over_processes(monkeypatch):
    now = iter([0.0, 2.0, 2.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(now))
    callback, trainer = throughput.Throughput(), SimpleNamespace(world_size=2)
    callback.on_train_epoch_start(trainer, None)
    for _ in range(3):
        callback.on_train_batch_end(trainer, None, None, [torch.zeros(5, 1, 2, 2)], 0)
    assert callback.measured() == 3 * 5 * 2 / 2


@pytest.mark.parametrize(("seconds", "saves"), [(59.0, 0), (61.0, 1)])
def test_the_newest_state_is_saved_every_minute(monkeypatch, tmp_path, seconds, saves):
    kept = []
    callback = last.LastCheckpoint(str(tmp_path))
    monkeypatch.setattr(callback, "_save", kept.append)
    monkeypatch.setattr(last.time, "monotonic", lambda: seconds)
    monkeypatch.setattr(last, "between_steps", lambda trainer, batch_idx: True)
    trainer = SimpleNamespace(world_size=1)
    callback.on_train_batch_end(trainer, None, None, None, 0)
    assert len(kept) == saves


@pytest.mark.parametrize(("timed", "seconds"), [(2, 3.0), (1, 1.0 * 2 + 2.0)])
def test_explain_times_the_fastest_step_but_the_first(monkeypatch, timed, seconds):
    """Passes take 0.1, 2, 1 and 4 seconds, the optimizer 0.1, 2, 2 and 1, for all images."""
    ticks = iter([0.0, 0.1, 0.2, 10.0, 12.0, 14.0, 20.0, 21.0, 23.0, 30.0, 34.0, 35.0])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(ticks))
    module = DiffusionModule(FastUNet(width=4, depth=1, image_size=8), StraightPath(), Flow())
    if timed == 1:
        monkeypatch.setattr(cost, "LARGEST_STEP", 1)
    found = cost.cost(module, (1, 8, 8), batch_size=2)
    assert (found["timed_images"], found["step_seconds"]) == (timed, seconds)

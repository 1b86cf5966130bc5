"""last.ckpt with every_epoch=false: saved when it is due, and in any case at the end."""

from pathlib import Path

import pytest
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.runs.checkpoint import SafeCheckpointIO
from diffusion_lab.training.rerun import compare_runs
from tests.conftest import RUN

RARELY = ("callbacks.last.every_epoch=false", "callbacks.last.every_seconds=3600")


@pytest.mark.parametrize(
    ("end", "steps"),
    [("trainer.max_epochs=3", 6), ("trainer.max_steps=3", 3)],  # two batches an epoch
)
def test_an_epochs_end_saves_only_the_last_time(end, steps, tmp_path, monkeypatch):
    saved = []
    save = SafeCheckpointIO.save_checkpoint

    def recorded(io, checkpoint, path, storage_options=None):
        saved.append((Path(path).stem, checkpoint["global_step"]))
        save(io, checkpoint, path, storage_options)

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", recorded)
    train(compose_config([*RUN, *RARELY, end], tmp_path))
    assert [step for name, step in saved if name == "last"] == [steps]
    assert (
        torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        == steps
    )


@pytest.mark.slow
def test_a_run_continues_from_there(tmp_path, whole):
    train(compose_config([*RUN, *RARELY, "trainer.max_epochs=1"], tmp_path / "run"))
    train(compose_config([*RUN, *RARELY], tmp_path / "run"), resume=True)
    assert compare_runs(tmp_path / "run", whole) == []

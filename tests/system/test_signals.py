"""Ctrl-C and SIGTERM during training, validation and a sweep."""

import json
import signal
import time

import pytest
import torch

from diffusion_lab import load_run
from tests.support.forked import Forked
from tests.training.test_exact_resume import RUN


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_a_checkpoint_of_the_current_step(tmp_path, number, code):
    run = tmp_path / "run"
    endless = ("trainer.max_epochs=99999", "callbacks.last.every_seconds=9999")
    process = Forked("train", *RUN, *endless, f"hydra.run.dir={run}", cwd=tmp_path)
    for line in process.stdout:
        if line.startswith("epoch 2:"):
            process.send_signal(number)
            break
    process.communicate(timeout=300)
    assert process.returncode == code
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "interrupted"
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    losses = (run / "losses.csv").read_text().splitlines()
    assert len(losses) - 1 == state["global_step"]  # no step is lost
    assert load_run(run).module is not None


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep(tmp_path):
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    process = Forked("train", "-m", "seed=1,2", *RUN, "trainer.max_epochs=99999", sweep)
    try:
        assert any(line.startswith("epoch 1:") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    record = json.loads((tmp_path / "sweep" / "0" / "metrics.json").read_text())
    assert record["status"] == "interrupted"
    assert not (tmp_path / "sweep" / "1").exists()
    assert "interrupted" in (tmp_path / "sweep" / "summary.csv").read_text()


def test_a_second_ctrl_c_exits_at_once(tmp_path):
    """Even while an endless validation blocks the first Ctrl-C."""
    endless = "+callbacks.endless={_target_: tests.support.endless.EndlessValidation}"
    process = Forked("train", *RUN, endless, cwd=tmp_path)
    assert any(line.startswith("validating") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    process.communicate()

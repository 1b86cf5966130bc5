"""Requeueing by SLURM, with a stand-in for the command scontrol."""

import signal
import sys

import pytest
import torch

from tests.conftest import TINY
from tests.support.forked import Forked
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="has no such signals"),
]


def test_requeue_signal_saves_and_requeues(tmp_path):
    """As Lightning does: hpc_ckpt_1.ckpt, `scontrol requeue`, and the next start resumes."""
    bin_dir, run_dir = tmp_path / "bin", tmp_path / "run"
    bin_dir.mkdir()
    (bin_dir / "scontrol").write_text(f"#!/bin/sh\necho $* > {tmp_path}/asked\n")
    (bin_dir / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "n1"}
    words = (*TINY, "callbacks.samples=null", f"hydra.run.dir={run_dir}")
    path = f"{bin_dir}:/usr/bin:/bin"
    process = Forked("train", *words, "trainer.max_epochs=9999", PATH=path, **job)
    try:
        assert any(line.startswith("epoch 2:") for line in process.stdout)
        process.send_signal(signal.SIGUSR1)
        wait_until((tmp_path / "asked").exists)
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    step = torch.load(run_dir / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"]
    assert step > 4
    words = (*words, f"trainer.max_steps={step + 3}", "trainer.max_epochs=99")
    process = Forked("train", *words, **job)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == step + 3

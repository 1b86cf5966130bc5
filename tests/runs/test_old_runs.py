"""Runs made by commit 0847a52, before the code was moved, still work: see old/README.md."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

OLD = Path(__file__).parent / "old"
RUNS = ("flow", "ddpm", "edm")
SAMPLED = {
    "flow": ("run=flow", "sampler.num_steps=3"),
    "flow_guided": ("run=flow", "sampler.num_steps=3", "labels=[1,2,3]", "guidance_scale=2"),
    "ddpm": ("run=ddpm", "sampler.num_steps=4"),
    "ddpm_posthoc": ("run=ddpm", "sampler.num_steps=4", "weights=posthoc:0.08"),
    "edm": ("run=edm", "sampler.num_steps=3"),
}
same_kernels = torch.backends.cpu.get_cpu_capability() == "AVX2"
"""Other vector instructions round differently; the runs were made with these."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Copy the run folders into the working directory of the commands."""
    for run in RUNS:
        shutil.copytree(OLD / run, tmp_path / run)
    return tmp_path


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_are_bit_identical(old, typed, name):
    code, _, err = typed(
        "sample", *SAMPLED[name], "accelerator=cpu", "num_samples=3", "seed=5", "out=samples"
    )
    assert code == 0, err
    with np.load(old / "samples/samples.npz") as ours, np.load(OLD / f"samples/{name}.npz") as its:
        assert set(ours) == set(its)
        for key in its:
            distance = np.abs(ours[key].astype(int) - its[key].astype(int)).max()
            assert distance <= (0 if same_kernels else 1), key


@pytest.mark.parametrize("run", RUNS)
def test_old_runs_resume(old, typed, run):
    code, _, err = typed("train", f"resume={run}", "trainer.max_epochs=3")
    assert code == 0, err
    record = json.loads((old / run / "metrics.json").read_text())
    assert (record["status"], record["steps"]) == ("finished", 12)


@pytest.mark.slow
@pytest.mark.skipif(not same_kernels, reason="the runs were made with AVX2")
@pytest.mark.parametrize("run", RUNS)
def test_old_runs_rerun_without_a_difference(old, typed, run):
    code, out, err = typed("train", f"rerun={run}")
    assert code == 0, out + err
    assert "the same data, losses and weights, bit for bit" in out


def test_old_runs_are_evaluated_and_compared(old, typed):
    for run in ("flow", "edm"):
        code, _, err = typed(
            "evaluate",
            f"run={run}",
            "sampler=blend",
            "sampler.num_steps=3",
            "num_samples=80",
            "seeds=[0]",
            "extractor=mnist_v1",
            "accelerator=cpu",
        )
        assert code == 0, err
    code, out, err = typed("compare", "runs=flow,edm", "metrics=fid")
    assert code == 0, err
    assert "flow" in out and "edm" in out


@pytest.mark.parametrize("run", RUNS)
def test_old_runs_are_exported(old, typed, run):
    code, _, err = typed("export", f"run={run}", f"out={run}_exported")
    assert code == 0, err
    assert (old / f"{run}_exported" / "model_index.json").is_file()

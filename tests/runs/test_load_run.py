"""load_run: three lines without Hydra, and no code that a checkpoint names is run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_lab import load_run
from diffusion_lab.diffusion import HeunSampler
from diffusion_lab.errors import UserError
from diffusion_lab.runs.checkpoint import Checkpoint, read_checkpoint


@pytest.mark.slow
def test_three_lines_sample_images_without_hydra(trained, tmp_path):
    code = f"""
import sys
from diffusion_lab import load_run
run = load_run({str(trained["ddpm"])!r})
images = run.sample(16, num_steps=10, seed=0)
import numpy
numpy.save({str(tmp_path / "images.npy")!r}, images.numpy())
print("hydra" in sys.modules, "omegaconf" in sys.modules)
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert process.stdout.split() == ["False", "False"]
    images = np.load(tmp_path / "images.npy")
    assert images.shape == (16, 1, 28, 28) and images.dtype == np.uint8
    again = load_run(trained["ddpm"]).sample(16, num_steps=10, seed=0)
    assert np.abs(images.astype(int) - again.numpy().astype(int)).max() <= 1


def test_another_sampler_and_settings(trained):
    run = load_run(trained["ddpm"])
    assert run.sample(2, sampler=HeunSampler(3)).shape == (2, 1, 28, 28)
    by_name = run.sample(2, sampler="heun", num_steps=3)
    assert by_name.equal(run.sample(2, sampler=HeunSampler(3)))
    for sampler in (None, "heun"):
        with pytest.raises(UserError, match="num_stepz"):
            run.sample(2, sampler=sampler, num_stepz=3)
    with pytest.raises(UserError, match=r"sampler=huen is unknown"):
        run.sample(2, sampler="huen")
    with pytest.raises(UserError, match="num_steps cannot be changed in a Sampler"):
        run.sample(2, sampler=HeunSampler(3), num_steps=4)
    with pytest.raises(UserError, match="num_samples=0"):
        run.sample(0)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.nn.Linear",
        # through a module of ours to what it imports
        "diffusion_lab.runs.record.subprocess.run",
        "diffusion_lab.networks.unet2d.torch.load",
        "diffusion_lab.training.train.train",
    ],
)
def test_checkpoint_cannot_run_foreign_code(trained, tmp_path, target):
    state = torch.load(trained["ddpm"] / "checkpoints/last.ckpt", weights_only=True)
    state["config"]["model"]["network"] = {"_target_": target, "command": f"touch {tmp_path}/ran"}
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(UserError, match=r"neither a class that this project allows|names "):
        load_run(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_own_network_needs_trust(trained, tmp_path):
    state = torch.load(trained["ddpm"] / "checkpoints/last.ckpt", weights_only=True)
    state["config"]["model"]["network"] = {
        "_target_": "torch.nn.Conv2d",
        "in_channels": 1,
        "out_channels": 1,
        "kernel_size": 1,
    }
    state["state_dict"] = {"network.weight": torch.ones(1, 1, 1, 1), "network.bias": torch.zeros(1)}
    del state["ema"]
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(UserError, match=r"trust=\[torch\]"):
        load_run(tmp_path)
    assert isinstance(load_run(tmp_path, trust=["torch"]).module.network, torch.nn.Conv2d)


@pytest.mark.parametrize("name", ["flow", "ddpm", "edm"])
def test_checkpoint_type_lists_the_contents_of_old_checkpoints(name):
    """Every key in a file is declared, and every key declared as required is in the file."""
    path = Path(__file__).parent / "old" / name / "checkpoints" / "last.ckpt"
    keys = read_checkpoint(path).keys() - {"pytorch-lightning_version"}  # no name for an attribute
    assert Checkpoint.__required_keys__ <= keys <= Checkpoint.__annotations__.keys()


def test_checkpoint_type_lists_the_contents_of_new_checkpoints(runs):
    keys = read_checkpoint(runs["conditional"] / "checkpoints" / "last.ckpt").keys()
    assert keys - {"pytorch-lightning_version"} <= Checkpoint.__annotations__.keys()
    assert {"ema", "pending", "stopping"} <= keys

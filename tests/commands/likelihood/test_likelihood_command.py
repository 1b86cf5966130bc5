"""scripts/likelihood.py: its record, and one line for a mistake."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from diffusion_lab import load_run
from diffusion_lab.commands.likelihood.command import _images
from diffusion_lab.runs.data import run_data
from tests.cli.test_bad_input import assert_refused
from tests.conftest import last_line


@pytest.mark.slow
def test_record_of_both_methods(command, trained):
    out = last_line(
        command(
            "likelihood",
            f"run={trained['ddpm']}",
            "num_images=3",
            "batch_size=2",
            "num_timesteps=4",
            "tolerance=1e-2",
            "probes=2",
            "accelerator=cpu",
            "out=here",
        )
    )
    record = json.loads((out / "likelihood.json").read_text())
    assert record["num_images"] == 3 and record["split"] == "test" and record["labels"] is None
    ode, bound = record["methods"]["ode"], record["methods"]["bound"]
    run = load_run(trained["ddpm"])
    assert ode["start_ratio"] == pytest.approx(run.module.noise_schedule.min_ratio)
    assert (ode["probes"], ode["draws"], ode["draw_std"]) == (2, 1, None)
    assert ode["probe_std"] > 0 and ode["num_calls"]["min"] >= 13
    assert bound["num_timesteps"] == 4 and bound["of_timesteps"] == 999
    assert sum(bound["terms"].values()) == pytest.approx(bound["bits_per_dim"])
    for found in (ode, bound):
        assert found["bits_per_dim"] == pytest.approx(np.mean(found["per_image"]))


def test_a_conditional_run_with_own_labels_and_with_none(typed, runs):
    small = (
        f"run={runs['conditional']}",
        "num_images=2",
        "tolerance=1e-2",
        "accelerator=cpu",
        "split=val",
    )
    found = {}
    for labels in ("none", "own"):
        code, out, err = typed("likelihood", *small, f"labels={labels}")
        assert code == 0, err
        folder = Path(out.split()[-1])
        assert folder.parent == runs["conditional"] / "likelihood"
        record = json.loads((folder / "likelihood.json").read_text())
        assert record["labels"] == labels and list(record["methods"]) == ["ode"]
        found[labels] = record["methods"]["ode"]
        assert f"{found[labels]['bits_per_dim']:.4f}" in out and "labels=" + labels in out
        # uniform dequantisation's standard deviation, in [-1, 1]
        assert found[labels]["start_ratio"] == pytest.approx(2 / 255 / math.sqrt(12))
    assert found["none"]["per_image"] != found["own"]["per_image"]


def test_labels_belong_to_the_chosen_images(runs):
    run = load_run(runs["conditional"])
    asked = {"labels": "own", "split": "test", "num_images": 40, "seed": 3}
    chosen = _images(OmegaConf.create(asked | {"paths": {"data_dir": None}}), run)
    own = run_data(run, None).labels("test")[chosen.indices]
    assert torch.equal(chosen.labels, own) and len(own.unique()) > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run="], ["run= is missing"]),
        (["run=nowhere"], ["run=nowhere is no folder"]),
        (["run={basic_unet}"], ["uniform", "Gaussian"]),
        (["run={conditional}", "method=bound"], ["method=ode", "model=ddpm"]),
        (["run={ddpm}", "method=exact"], ["method=exact", "bound"]),
        (["run={ddpm}", "tolerance=0"], ["tolerance=0", "1e-3"]),
        (["run={ddpm}", "tolerance=-1"], ["tolerance=-1"]),
        (["run={ddpm}", "tolerance=nan"], ["tolerance=nan"]),
        (["run={ddpm}", "start_ratio=0.001"], ["start_ratio=0.001", "from 0.01"]),
        (["run={ddpm}", "split=exam"], ["exam", "train, val, test"]),
        (["run={ddpm}", "num_images=5000"], ["num_images=5000", "1000"]),
        (["run={ddpm}", "num_images=0"], ["num_images=0", "at least 1"]),
        (["run={ddpm}", "probes=0"], ["probes=0"]),
        (["run={ddpm}", "draws=0"], ["draws=0"]),
        (["run={ddpm}", "seed=-1"], ["seed=-1"]),
        (["run={ddpm}", "variance=learned"], ["variance=learned", "fixed_small"]),
        (["run={ddpm}", "num_timesteps=1000"], ["num_timesteps=1000", "1 to 999"]),
        (["run={ddpm}", "labels=3"], ["labels=3", "own"]),
        (["run={ddpm}", "labels=own"], ["labels=own", "unconditional"]),
        (["run={ddpm}", "+scale=1"], ["scale"]),
        (["run={ddpm}", "weights=posthoc"], ["weights=posthoc"]),
    ],
)
def test_likelihood_rejects_bad_input(typed, trained, runs, tmp_path, arguments, words):
    folders = trained | runs
    given = [argument.format(**folders) for argument in arguments]
    assert_refused(typed("likelihood", *given, "out=never", "accelerator=cpu"), *words)
    assert not (tmp_path / "never").exists()

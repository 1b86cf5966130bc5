"""The commands in separate processes, as a user runs them."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import TINY, last_line
from tests.support.forked import ROOT

TRAIN = (sys.executable, str(ROOT / "scripts" / "train.py"))
SMOKE = ("experiment=smoke", "trainer.accelerator=cpu")


def processor_seconds(run):
    """Processor time of the child processes that `run` waits for."""
    began = os.times().children_user
    run()
    return os.times().children_user - began


@pytest.mark.slow
def test_help_and_cfg_need_no_heavy_imports():
    """They take a third of the time of importing torch at most, measured in turn with it."""

    def ask(*arguments):
        process = subprocess.run([*TRAIN, *arguments], check=True, capture_output=True, text=True)
        assert "noise_schedule" in process.stdout

    imports = [sys.executable, "-c", "import torch, lightning, diffusers"]
    turns = (
        lambda: subprocess.run(imports, check=True, capture_output=True),
        lambda: ask("--help"),
        lambda: ask("--cfg", "job"),
    )
    work, *answers = (
        min(times)
        for times in zip(
            *([processor_seconds(turn) for turn in turns] for _ in range(2)), strict=True
        )
    )
    assert max(answers) < work / 3


def test_the_command_line_does_not_import_torch():
    code = (
        "import sys, diffusion_lab.cli; print('torch' in sys.modules, 'lightning' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """experiment=smoke from a folder that is not the checkout: (run folder, output, seconds)."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    began = time.perf_counter()
    process = subprocess.run(
        [*TRAIN, *SMOKE],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
    )
    return last_line(process), process, time.perf_counter() - began, cwd


def test_smoke_from_another_folder_writes_a_complete_run_folder(smoke):
    run, _, seconds, cwd = smoke
    assert run.parent == cwd / "logs" / "runs"
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert names >= {
        ".hydra/config.yaml",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "metrics.json",
        "losses.csv",
        "train.log",
        *(
            f"figures/{n}.png"
            for n in (
                "data",
                "corruption",
                "predictions",
                "noise_schedule",
                "trajectory",
                "samples",
                "loss_curve",
                "samples_epoch_000",
                "samples_epoch_001",
            )
        ),
    }
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert seconds < 240  # about 30 on an idle machine, imports included


def test_metrics_json_describes_the_run(smoke):
    record = json.loads((smoke[0] / "metrics.json").read_text())
    assert record["status"] == "finished"
    assert record["overrides"] == list(SMOKE)
    assert record["data"]["source"] == "fake" and len(record["data"]["sha256"]) == 64
    assert record["parameters"] == 309_057
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["best"]["val/loss"] <= record["metrics"]["val/loss"]
    # a learning rate here would be that of the last logged step, not of the last step
    assert not any(name.startswith("lr") for name in record["metrics"])
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    if head.returncode == 0:
        assert record["git_commit"].startswith(head.stdout.strip())


def test_epoch_averages_are_the_means_of_the_batch_losses(smoke):
    run, process, *_ = smoke
    with (run / "losses.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    record = json.loads((run / "metrics.json").read_text())
    per_epoch = np.array(losses).reshape(2, -1).mean(1)
    assert record["epoch_losses"] == pytest.approx(per_epoch, rel=1e-6)
    printed = re.findall(r"epoch \d+: average loss ([\d.]+)", process.stdout)
    assert [float(p) for p in printed] == pytest.approx(per_epoch, abs=1e-6)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_losses(smoke, command):
    again = last_line(command("train", *SMOKE, "callbacks.samples=null"))
    load = [torch.load(r / "checkpoints/last.ckpt", weights_only=True) for r in (smoke[0], again)]
    # sampling during training must not advance the training's random stream
    for name, value in load[0]["state_dict"].items():
        assert torch.equal(value, load[1]["state_dict"][name]), name
    assert (smoke[0] / "losses.csv").read_bytes() == (again / "losses.csv").read_bytes()


def test_the_saved_config_composes_to_the_same_run(smoke):
    saved = yaml.safe_load((smoke[0] / ".hydra" / "config.yaml").read_text())
    carried = torch.load(smoke[0] / "checkpoints/last.ckpt", weights_only=True)["config"]
    assert carried["data"]["train_size"] == saved["data"]["train_size"] == 160
    assert carried["network"]["channels"] == [32, 64, 64]
    assert carried["seed"] == saved["seed"]


def test_sample_needs_only_the_run(smoke, command):
    run = smoke[0]
    out = last_line(command("sample", f"run={run}", "num_samples=10", "batch_size=4", "seed=3"))
    assert out.parent == run / "samples"
    images = np.load(out / "samples.npz")["images"]
    assert images.shape == (10, 1, 28, 28) and images.dtype == np.uint8
    with Image.open(out / "denoising.gif") as gif:
        assert gif.n_frames >= 5
    for name in ("samples.png", "trajectory.png"):
        with Image.open(out / name) as figure:
            assert min(figure.size) > 100
    settings = json.loads((out / "samples.json").read_text())
    assert settings["sampler"]["num_steps"] == 5 and settings["seed"] == 3

    # image k does not depend on the batch size, up to one gray level for the network's rounding
    other = last_line(
        command("sample", f"run={run}", "num_samples=10", "batch_size=10", "seed=3", "out=mine")
    )
    assert other.name == "mine"
    same = np.load(other / "samples.npz")["images"]
    assert np.abs(same.astype(int) - images.astype(int)).max() <= 1


@pytest.mark.slow
def test_samplers_can_be_exchanged_after_training(trained, typed):
    run = trained["ddpm"]
    samples = {}
    for sampler in ("blend", "ddpm", "ddim", "dpm_solver"):
        code, out, err = typed(
            "sample", f"run={run}", f"sampler={sampler}", "sampler.num_steps=4", "num_samples=2"
        )
        assert code == 0, err
        folder = out.strip().splitlines()[-1]
        samples[sampler] = np.load(f"{folder}/samples.npz")["images"]
    assert len({images.tobytes() for images in samples.values()}) >= 3


def test_a_sweep_of_samples_writes_nothing_elsewhere(trained, typed, tmp_path):
    run = trained["basic_unet"]
    words = [f"run={run}", "num_samples=1", "trajectory_steps=1", "sampler.num_steps=1,2"]
    code, out, err = typed("sample", "-m", *words)
    assert code == 0, err
    folders = [line for line in out.splitlines() if Path(line).is_dir()]
    records = [json.loads((Path(folder) / "samples.json").read_text()) for folder in folders]
    assert [record["sampler"]["num_steps"] for record in records] == [1, 2]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["logs"]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["sweeps"]


@pytest.mark.slow
def test_sweep_of_two_by_two(command):
    words = (*TINY[:-2], "callbacks=minimal", "model=basic_unet,flow", "seed=1,2")
    process = command("train", "-m", *words)
    sweep = last_line(process)
    assert sweep.parent.name == "sweeps"
    with (sweep / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row, (model, seed) in zip(
        rows, [("basic_unet", 1), ("basic_unet", 2), ("flow", 1), ("flow", 2)], strict=True
    ):
        assert f"model={model}" in row["overrides"] and f"seed={seed}" in row["overrides"]
        assert row["status"] == "finished"
        assert float(row["wall_seconds"]) > 0
        record = json.loads((sweep / row["job"] / "metrics.json").read_text())
        assert float(row["val/loss"]) == pytest.approx(record["metrics"]["val/loss"])
    assert "4 jobs" in process.stdout


@pytest.mark.slow
def test_a_failing_job_does_not_end_the_sweep(command):
    process = command("train", "-m", *TINY[:3], *TINY[4:], "data.batch_size=4,0,8")
    assert process.returncode == 2
    sweep = process.stdout.strip().splitlines()[-1]
    with Path(sweep, "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert "data.batch_size=0" in rows[1]["error"] and "data.batch_size=0" in process.stderr
    assert "data=fake" not in process.stdout  # the table shows swept overrides only


@pytest.mark.slow
def test_two_processes_train_one_model(command):
    """DistributedDataParallel over gloo: one folder, one record, every image once per epoch.

    The first process reports every step, and the other must not have to wait for it.
    """
    words = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.precision=bf16-mixed")
    process = command("train", *SMOKE, *words, "+callbacks.progress.seconds=0")
    run = last_line(process)
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "finished" and record["steps"] == 2 * 160 // 16 // 2
    assert len(list(run.parent.iterdir())) == 1
    assert process.stdout.count("epoch 1: average loss") == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_live_bar(tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    main, worker = pty.openpty()
    fcntl.ioctl(worker, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = subprocess.Popen(
        [*TRAIN, *TINY],
        stdout=worker,
        stderr=worker,
        cwd=tmp_path,
    )
    os.close(worker)
    shown = b""
    try:
        while chunk := os.read(main, 4096):
            shown += chunk
    except OSError:  # the terminal is closed with the process
        pass
    assert process.wait() == 0
    text = shown.decode()
    assert "train/loss=" in text and "images_per_second=" in text and "left=" in text

"""Runs as a person types them, and the same in this process where that is enough."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hydra._internal.hydra import Hydra

from diffusion_lab import cli, compose_config, train
from tests.support import forked
from tests.support.tiny_vae import save_vae

EXHAUSTIVE = (pytest.mark.slow, pytest.mark.exhaustive)
"""Marks of further settings of what a test tries with some: make test-exhaustive."""
# tiny but whole: the tests of options are about wiring, not about learning
TINY = (
    "data=fake",
    "data.num_images=24",
    "data.val_size=4",
    "data.batch_size=4",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "sampler.num_steps=2",
    "callbacks.samples.num_samples=4",
    "callbacks.figures=null",  # half the time of such a run
)
PICTURED = (*TINY[:-1], "callbacks.figures.num_samples=4")
TINY_UNET = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
TINY_UNET_WORDS = [
    f"network.{key}={str(value).replace(' ', '')}".replace("'", "")
    for key, value in TINY_UNET.items()
]
RUN = (*TINY[:-2], "callbacks=minimal", "trainer.max_epochs=2", "model=flow", "network.width=8")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny operations are slower in two, and the tests run in several processes."""
    torch.set_num_threads(1)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python scripts/<name>.py <arguments>` in a folder of its own."""

    def run(
        name: str, *arguments: str, cwd: Path = tmp_path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {"CUDA_VISIBLE_DEVICES": "", **environment}
        return forked.run(name, *arguments, cwd=cwd, **environment)

    return run


def last_line(process: subprocess.CompletedProcess[str]) -> Path:
    """The path a command ends with."""
    assert process.returncode == 0, process.stdout + process.stderr
    return Path(process.stdout.strip().splitlines()[-1])


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Type a command in this process: (exit code, standard output, standard error).

    The imports of a new process take longer than most of what these tests look at.
    """

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        # Hydra composes twice, first to read hydra.mode, which no test sets
        monkeypatch.setattr(Hydra, "get_mode", lambda *arguments, **named: None)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setenv("DIFFUSION_LAB_TRACEBACK", "0")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capfd.readouterr()
        handlers = list(logging.root.handlers)
        try:
            getattr(cli, name)()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            logging.root.handlers[:] = handlers  # Hydra's write to what is closed by then
        out, err = capfd.readouterr()
        return code, out, err

    return run


def trained_once(factory: pytest.TempPathFactory, words: Sequence[str]) -> Path:
    """The folder of a run of these words: trained by the first process of the session to ask.

    It is for all tests, which copy it where they write.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a folder of its own within that of all
        base = base.parent
    folder = base / "trained" / hashlib.sha256(repr(tuple(words)).encode()).hexdigest()[:12]
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (done := Path(f"{folder}.done")).exists():
            train(compose_config(words, folder))
            done.touch()
    return folder


@pytest.fixture
def half(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that was stopped after the first."""
    words = (*RUN, "trainer.max_epochs=1")
    folder = shutil.copytree(trained_once(tmp_path_factory, words), tmp_path / "half")
    record = folder / "metrics.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    return folder


@pytest.fixture
def whole(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, never stopped."""
    return shutil.copytree(trained_once(tmp_path_factory, RUN), tmp_path / "whole")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of tiny trained models, by model."""
    folders = {}
    for model, network in (("basic_unet", "basic_unet"), ("ddpm", "unet_fast")):
        words = (*TINY, f"model={model}", f"network={network}")
        folders[model] = tmp_path_factory.mktemp("of_tests") / model
        shutil.copytree(trained_once(tmp_path_factory, words), folders[model])
    return folders


def latent_words(factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Words of a tiny training on latents, whose VAE and cache lie beside the runs."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    vae = base / "latents" / "vae"
    vae.parent.mkdir(exist_ok=True)
    with FileLock(f"{vae}.lock"):
        if not vae.exists():
            save_vae(vae)
    small = (*PICTURED, "model=flow", "network=dit", "network.patch_size=2", "network.width=16")
    of_vae = (f"latents={vae}", f"data.cache_dir={vae.parent / 'cache'}")
    return (*small, "network.depth=1", "network.heads=2", "trainer.max_epochs=2", *of_vae)


@pytest.fixture(scope="session")
def latent_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the latents of a tiny VAE."""
    folder = tmp_path_factory.mktemp("of_tests") / "latent"
    return shutil.copytree(trained_once(tmp_path_factory, latent_words(tmp_path_factory)), folder)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders to export: one of stock parts, one conditional on classes."""
    folders = {}
    for name, more in {
        "stock": ["model=ddpm", *TINY_UNET_WORDS],
        "conditional": ["model=flow", "network.width=8", "network.depth=1", "model.num_classes=10"],
    }.items():
        words = (*TINY[:-2], "callbacks=minimal", "logger=csv", *more)  # without pictures
        folders[name] = tmp_path_factory.mktemp("of_tests") / name
        shutil.copytree(trained_once(tmp_path_factory, words), folders[name])
    return folders


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an extractor for data=fake: of little training, but whole."""
    out = tmp_path_factory.mktemp("extractors") / "bars_v1"
    words = ["version=bars_v1", "data=fake", "data.num_images=400", "data.val_size=150"]
    words += ["max_epochs=1", "accelerator=cpu", f"out={out}"]
    forked.run("train_extractor", *words).check_returncode()
    return out

"""A wheel that works from any folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.support.forked import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from the checkout and installed beside nothing else of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(folder / "site"), str(wheel)], check=True, capture_output=True)
    return folder / "site"


def run(installed, tmp_path, *command):
    # first on the path, so that the checkout's editable install is not what is tried
    env = os.environ | {"PYTHONPATH": str(installed)}
    process = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_the_installed_package_is_the_one_that_runs(installed, tmp_path):
    code = (
        "from diffusion_lab import cli; from diffusion_lab.config.search_path import CONFIG_DIR; "
        "print(cli.__file__, CONFIG_DIR)"
    )
    module, configs = run(installed, tmp_path, sys.executable, "-P", "-c", code).split()
    assert module.startswith(str(installed))
    assert configs == str(installed / "diffusion_lab" / "configs")
    assert (installed / "diffusion_lab" / "py.typed").is_file()


@pytest.mark.slow
def test_console_commands_train_and_sample(installed, tmp_path):
    train, sample = (installed / "bin" / f"diffusion-lab-{name}" for name in ("train", "sample"))
    out = run(installed, tmp_path, sys.executable, "-P", train, *TINY, "network.channels=[4,4]")
    folder = out.strip().splitlines()[-1]
    assert folder.startswith(str(tmp_path / "logs" / "runs"))
    out = run(installed, tmp_path, sys.executable, "-P", sample, f"run={folder}", "num_samples=2")
    assert out.strip().splitlines()[-1].startswith(folder)
    assert json.loads(Path(folder, "metrics.json").read_text())["git_commit"] is None

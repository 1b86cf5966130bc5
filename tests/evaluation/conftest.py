"""An extractor of made-up bars, trained by the command a person types."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TINY_EXTRACTOR = ("data=fake", "data.num_images=300", "data.val_size=60", "data.batch_size=32")


@pytest.fixture(scope="session")
def fake_extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of fake_v1."""
    folder = tmp_path_factory.mktemp("extractor")
    words = [*TINY_EXTRACTOR, "version=fake_v1", "max_epochs=3", "accelerator=cpu"]
    process = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train_extractor.py"), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert "of 60 misjudged" in process.stdout and "of 1000 misjudged" in process.stdout
    return Path(process.stdout.strip().splitlines()[-1])

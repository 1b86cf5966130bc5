"""Runs as a person types them, and the same in this process where that is enough."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

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
)


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python scripts/<name>.py <arguments>` in a folder of its own."""

    def run(
        name: str, *arguments: str, cwd: Path = tmp_path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=env | {"CUDA_VISIBLE_DEVICES": ""} | environment,
            timeout=300,
        )

    return run


def last_line(process: subprocess.CompletedProcess[str]) -> Path:
    """The path a command ends with."""
    assert process.returncode == 0, process.stdout + process.stderr
    return Path(process.stdout.strip().splitlines()[-1])

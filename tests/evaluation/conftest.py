"""Fixture: an extractor for synthetic images, trained by the command line."""

from pathlib import Path

import pytest

from tests.support import forked

TINY_EXTRACTOR = ("data=fake", "data.num_images=300", "data.val_size=60", "data.batch_size=32")


@pytest.fixture(scope="session")
def fake_extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train fake_v1 and return its folder."""
    folder = tmp_path_factory.mktemp("extractor")
    words = [*TINY_EXTRACTOR, "version=fake_v1", "max_epochs=3", "accelerator=cpu"]
    process = forked.run("train_extractor", *words, cwd=folder, CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 0, process.stderr
    assert "of 60 misclassified" in process.stdout and "of 1000 misclassified" in process.stdout
    return Path(process.stdout.strip().splitlines()[-1])

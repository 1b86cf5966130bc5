"""ImageDataModule in a Trainer: stages, precision, several processes."""

import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from diffusion_lab.data.datamodule import ImageDataModule
from tests.data.test_datamodule import fake, identities
from tests.support.forked import ROOT


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_batches, self.val_batches = [], []

    def training_step(self, batch, batch_idx):
        self.train_batches.append(batch)
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.val_batches.append(batch)

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet_trainer(**settings) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1} | settings,
    )


def test_fit_and_test_in_a_trainer(tiny, tmp_path, monkeypatch):
    tiny.write(tmp_path)
    data = ImageDataModule("mnist", tmp_path, val_size=10, batch_size=25)
    module = Recorder()
    trainer = quiet_trainer(num_sanity_val_steps=0)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert [len(labels) for _, labels in module.train_batches] == [25, 25]
    assert [len(labels) for _, labels in module.val_batches] == [10]
    images, labels = module.train_batches[0]
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_val_size_0_skips_validation():
    module = Recorder()
    data = ImageDataModule("fake", num_images=32, num_test_images=8, val_size=0, batch_size=16)
    quiet_trainer().fit(module, data)
    assert data.val_dataloader() == []
    assert len(module.train_batches) == 2
    assert module.val_batches == []


def test_images_have_the_precision_of_the_trainer():
    module = Recorder()
    quiet_trainer(precision="64-true", max_steps=1).fit(module, fake())
    images, labels = module.train_batches[0]
    assert images.dtype == torch.float64
    assert labels.dtype == torch.int64


def test_overfit_batches_repeats_the_same_batches():
    module = Recorder()
    quiet_trainer(overfit_batches=2, max_epochs=2, limit_val_batches=0).fit(module, fake())
    first, second = module.train_batches[:2], module.train_batches[2:]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


class ShardRecorder(Recorder):
    def on_train_end(self):
        images = torch.cat([images for images, _ in self.train_batches])
        torch.save(images, Path(sys.argv[1]) / f"rank{self.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_share_the_images(tmp_path):
    """Train in two real processes on the CPU; each saves the images that it received."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.test_in_a_trainer", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left, right = (identities(torch.load(tmp_path / f"rank{rank}.pt")) for rank in range(2))
    assert len(left) == len(right) == 75
    assert not left & right


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer = quiet_trainer(devices=2, strategy="ddp_fork", limit_val_batches=0)
    trainer.fit(ShardRecorder(), fake())

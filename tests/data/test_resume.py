"""A training that is interrupted and resumed sees the batches of an uninterrupted one."""

import logging

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from diffusion_lab.data.datamodule import ImageDataModule

PER_EPOCH = 5  # batches: 23 images, 5 at a time


class Recorder(L.LightningModule):
    """Module without learning that records its images."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[bytes] = []
        self.numbers: list[int] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].numpy().tobytes())
        self.numbers.append(batch_idx)
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.weight.detach())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Save at the end of a batch, as a ModelCheckpoint with every_n_train_steps does."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(folder, ckpt_path=None, callbacks=(), validate=False, **settings):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Recorder()
    data = ImageDataModule(
        "fake", num_images=28, num_test_images=5, val_size=5, batch_size=5, image_size=8
    )
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        default_root_dir=folder,
        callbacks=list(callbacks),
        num_sanity_val_steps=1,
        limit_val_batches=1.0 if validate else 0,
        **{"max_epochs": 4} | settings,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module.seen, trainer


def test_every_epoch_has_an_order_of_its_own(tmp_path):
    seen, _ = fit(tmp_path)
    assert len(seen) == len(set(seen)) == 4 * PER_EPOCH


MORE = [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 20}]


@pytest.mark.parametrize("step", [1, 5, 7, 9, 10])
@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("validate", [False, True])
def test_stopped_by_max_steps(tmp_path, step, more, validate):
    """Stop within and at the end of an epoch; continue by max_epochs or by max_steps."""
    straight, _ = fit(tmp_path)
    first, trainer = fit(tmp_path, max_epochs=-1, max_steps=step, validate=validate)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    second, trainer = fit(tmp_path, tmp_path / "stopped.ckpt", validate=validate, **more)
    # max_epochs counts an epoch that max_steps has cut as a whole one
    assert trainer.global_step == (20 if "max_steps" in more or step % 5 == 0 else 15 + step % 5)
    assert first + second == straight[: trainer.global_step]


@pytest.mark.parametrize("step", [3, 5, 8, 10])
@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("validate", [False, True])
def test_saved_inside_a_step(tmp_path, step, more, validate):
    straight, _ = fit(tmp_path, callbacks=[SaveAt(step, tmp_path / "step.ckpt")], validate=validate)
    resumed, trainer = fit(tmp_path, tmp_path / "step.ckpt", validate=validate, **more)
    assert resumed == straight[step:]
    assert trainer.global_step == 20


@pytest.mark.parametrize("limit", [1.0, 3])
@pytest.mark.parametrize("on_train_end", [True, False])
@pytest.mark.parametrize("stop", [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 7}])
def test_saved_at_the_end_of_an_epoch(tmp_path, limit, on_train_end, stop):
    """Save after training or after validation, with complete epochs or limit_train_batches."""
    settings = {"limit_train_batches": limit, "validate": True}
    straight, _ = fit(tmp_path, **settings)
    keep = ModelCheckpoint(
        tmp_path,
        filename="kept",
        enable_version_counter=False,
        save_on_train_epoch_end=on_train_end,
    )
    first, _ = fit(tmp_path, callbacks=[keep], **settings | stop)
    path = tmp_path / "kept.ckpt"
    step = torch.load(path, weights_only=True)["global_step"]
    second, _ = fit(tmp_path, path, **settings)
    seen = first[:step] + second
    assert seen == straight[: len(seen)]
    assert len(seen) > len(first)


def test_accumulating_gradients_does_not_move_the_position(tmp_path):
    settings = {"accumulate_grad_batches": 2}
    straight, _ = fit(tmp_path, **settings)
    first, trainer = fit(tmp_path, max_steps=4, **settings)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    second, _ = fit(tmp_path, tmp_path / "stopped.ckpt", max_steps=8, **settings)
    assert first + second == straight[: len(first + second)]


def test_batch_numbers_continue(tmp_path):
    """Lightning numbers a batch by its position in the epoch, also after resuming."""
    fit(tmp_path, callbacks=[SaveAt(7, tmp_path / "step.ckpt")])
    _, trainer = fit(tmp_path, tmp_path / "step.ckpt")
    assert trainer.lightning_module.numbers == [2, 3, 4, *range(5), *range(5)]

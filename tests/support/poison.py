"""Runs whose batches a test spoils."""

import json

import lightning as L
import pytest
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.callbacks import FiniteLoss, finite_loss
from tests.conftest import TINY

QUICK = (
    *TINY[:-2],
    "callbacks=minimal",
    "logger=csv",
    "model=flow",
    "network=unet_fast",
    "network.width=8",
    "network.depth=1",
    "trainer.limit_train_batches=5",
)


class Poison(L.Callback):
    """Puts a value into the first pixel of the batches with these numbers, counted over epochs."""

    def __init__(self, *numbers, value=float("nan"), image=0):
        self.numbers, self.value, self.image, self.seen = numbers, value, image, -1
        self.after, self.moments, self.indices = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen += 1
        self.indices.append(trainer.datamodule.batch_indices().tolist())
        if self.seen in self.numbers:
            batch[0][self.image, 0, 0, 0] = self.value

    def on_train_batch_end(self, trainer, pl_module, *args):
        (ema,) = (c for c in trainer.callbacks if type(c).__name__ == "EMA")
        self.after.append((copied(pl_module.state_dict()), copied(ema.average)))
        state = trainer.optimizers[0].state
        self.moments.append([v.clone() for s in state.values() for v in s.values()])


def copied(tensors):
    return {name: value.detach().clone() for name, value in tensors.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_with(callback, folder, *overrides):
    """Train with a callback of the test's own: last before the checkpoints, first in the batch."""
    cfg = compose_config([*QUICK, *overrides], folder)
    begin = FiniteLoss.on_fit_start

    def on_fit_start(self, trainer, pl_module):
        trainer.callbacks.insert(-3, callback)
        begin(self, trainer, pl_module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FiniteLoss, "on_fit_start", on_fit_start)
        return train(cfg)


def checkpoint(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def record_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def judge_late(patch):
    """As on a GPU, whose numbers are looked at one step later."""
    patch.setattr(finite_loss, "_is_asynchronous", lambda device: True)

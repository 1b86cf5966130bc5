"""Gradient accumulation, also at the end of an epoch, against a loop in plain torch."""

import copy

import pytest
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.modules import DiffusionModule
from tests.conftest import TINY

WORDS = (
    *TINY[:-2],
    "callbacks=minimal",
    "model=flow",
    "network.width=8",
    "network.depth=1",
    "data.num_images=44",  # ten batches an epoch
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=1.0",
    "optimizer.lr=0.01",
)


class Recorder:
    """Record the initial weights and the batches."""

    def __init__(self, monkeypatch):
        self.module, self.batches = None, []
        draw = DiffusionModule.draw

        def drawn(module, *batch):
            if self.module is None:
                self.module = copy.deepcopy(module.network), module.noise_schedule
            self.batches.append(draw(module, *batch))
            return self.batches[-1]

        monkeypatch.setattr(DiffusionModule, "draw", drawn)


def plain(network, module, batches, epoch, size, clip=None):
    """Train with Adam in groups of `size` batches, ended by the epoch; return their mean losses."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for first in range(0, len(batches), epoch):
        left = batches[first : first + epoch]
        for k in range(0, epoch, size):
            optimizer.zero_grad()
            group = left[k : k + size]
            sum(module.losses(*batch)[1].mean() for batch in group).div(len(group)).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "more", "epoch"),
    [
        (4, (), 10),  # 4, 4, 2
        (16, (), 10),  # 10
        (5, (), 10),  # all whole
        (4, ("trainer.limit_train_batches=7",), 7),
        (4, ("trainer.gradient_clip_val=0.05",), 10),
    ],
    ids=str,
)
def test_gradients_are_averaged_over_their_group(monkeypatch, tmp_path, size, more, epoch):
    recorder = Recorder(monkeypatch)
    words = [*WORDS, *more, f"trainer.accumulate_grad_batches={size}"]
    result = train(compose_config(words, tmp_path))
    network, _ = recorder.module
    trained = dict(result.module.network.named_parameters())
    module = copy.copy(result.module)
    module._modules = {**result.module._modules, "network": network}
    clip = 0.05 if "clip" in str(more) else None
    network.train()
    plain(network, module, recorder.batches[: 2 * epoch], epoch, size, clip)
    for name, expected in network.named_parameters():
        torch.testing.assert_close(trained[name], expected, rtol=1e-4, atol=1e-5)
    assert result.trainer.global_step == 2 * -(-epoch // size)

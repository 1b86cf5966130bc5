"""Sampling in batches: out-of-memory errors and the tensors that come back."""

import logging

import pytest
import torch

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import BlendSampler, Flow, StraightPath
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.fast_unet import FastUNet
from diffusion_lab.sampling.draw import draw


class Narrow(FastUNet):
    """Network that runs out of memory above `most` images."""

    most = 3

    def forward(self, x, time, labels=None):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(x, time, labels)


def sampled(module, batch_size, num_samples=10):
    images, steps = draw(
        module,
        BlendSampler(2),
        (1, 8, 8),
        ValueRange("minus_one_one"),
        num_samples=num_samples,
        batch_size=batch_size,
        seed=0,
    )
    return images, steps


@pytest.fixture
def module():
    torch.manual_seed(0)
    network = Narrow(image_size=8, width=4, depth=1)
    torch.nn.init.normal_(network.conv_out.weight)
    return DiffusionModule(network, StraightPath(), Flow())


def test_a_batch_too_large_for_the_memory_is_sampled_in_halves(module, caplog):
    with caplog.at_level(logging.WARNING):
        images, steps = sampled(module, batch_size=10)
    assert "out of memory for 10 images at once: continuing with 5" in caplog.text
    one_by_one, _ = sampled(module, batch_size=1)
    assert len(images) == 10 and len(steps) == 2
    assert (images.int() - one_by_one.int()).abs().max() <= 1


def test_out_of_memory_for_one_image_is_an_error(module):
    module.network.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        sampled(module, batch_size=4)


def test_images_can_be_changed_in_place(module):
    """Inference mode creates read-only tensors, which must not be returned."""
    images, _ = sampled(module, batch_size=4)
    images += 1
    assert not images.is_inference() and not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()

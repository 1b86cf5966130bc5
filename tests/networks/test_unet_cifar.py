"""The networks for 32 x 32 colour images, as composed from configs/network."""

import copy

import pytest
import torch
from diffusers import UNet2DModel
from hydra.utils import instantiate

from diffusion_lab import compose_config
from diffusion_lab.networks.unet2d import UNet2D
from tests.conftest import TINY_UNET

DDPM = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": None,
}
"""Settings of google/ddpm-cifar10-32, the weights of Ho et al. 2020."""


def composed(option):
    words = [f"network={option}", "data=fake", "data.channels=3", "data.image_size=32"]
    with torch.device("meta"):  # no time for random numbers
        return instantiate(compose_config(words).network, _convert_="all")


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_unet_cifar_has_the_weights_of_ddpm():
    network = composed("unet_cifar")
    with torch.device("meta"):
        theirs = UNet2DModel(**DDPM)
    assert count(network) == count(theirs) == 35_746_307
    shapes = {name: value.shape for name, value in network.unet.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}


def test_unet_cifar_small_is_a_ninth_of_it():
    assert count(composed("unet_cifar_small")) == 4_180_451


@pytest.mark.parametrize("head", [4, None])
def test_zero_init_zeroes_the_last_layers_and_nothing_else(head):
    """No random number is drawn for it: the other weights are those without."""
    x, time = torch.randn(2, 1, 16, 16), torch.tensor([5.0, 500])
    networks = []
    for zero_init in (False, True):
        torch.manual_seed(0)
        settings = TINY_UNET | {"attention_head_dim": head, "image_size": 16}
        networks.append(UNet2D(**settings, zero_init=zero_init))
    plain, zero = networks
    assert plain(x, time).any() and not zero(x, time).any()
    others = zero.state_dict()
    zeros = {
        name for name, value in plain.state_dict().items() if not torch.equal(value, others[name])
    }
    ends = ("conv2", "to_out.0", "conv_out")
    assert {name.rpartition(".")[0] for name in zeros} == {
        name.removesuffix(".weight")
        for name in others
        if name.removesuffix(".weight").endswith(ends)
    }
    assert not any(others[name].any() for name in zeros)


def test_one_head_per_attention_matches_diffusers():
    torch.manual_seed(0)
    ours = UNet2D(**TINY_UNET | {"attention_head_dim": None, "image_size": 16})
    theirs = UNet2DModel(**copy.deepcopy(dict(ours.unet.config)))
    theirs.load_state_dict(ours.unet.state_dict())
    x, time = torch.randn(2, 1, 16, 16), torch.tensor([5.0, 500])
    torch.testing.assert_close(ours(x, time), theirs(x, time).sample, rtol=1e-4, atol=1e-5)


def test_only_levels_with_attention_need_channels_that_heads_divide():
    network = UNet2D(
        image_size=16,
        block_out_channels=(12, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    x = torch.zeros(1, 1, 16, 16)
    assert network(x, torch.zeros(1)).shape == x.shape

"""The MLP for points: against its formula, and trained for some steps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffusion_lab.diffusion import Flow, StraightPath
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.mlp import MLP


def test_mlp_matches_its_formula():
    torch.manual_seed(0)
    net = MLP(width=8, depth=2, frequencies=2, num_classes=3)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, time, labels = torch.randn(3, 2, 1, 1), torch.tensor([0.0, 10, 999]), torch.tensor([0, 3, 1])
    c = F.silu(net.embed(time, labels))
    a, b = x[:, :1, 0, 0], x[:, 1:, 0, 0]
    angles = torch.cat([a, a * 2, b, b * 2], 1) * torch.pi / 2
    h = torch.cat([a, b, angles.sin(), angles.cos()], 1) @ net.first.weight.T + net.first.bias
    for block in net.blocks:
        scale, shift = block.modulation(c).split(8, 1)
        h = h + block.second(F.silu(block.first(h) * (1 + scale) + shift))
    out = (F.silu(h) @ net.out.weight.T + net.out.bias)[:, :, None, None]
    torch.testing.assert_close(net(x, time, labels), out)


def test_the_parameters_are_those_of_its_layers():
    """Two linear layers and a modulation of twice the width per block."""
    linear = lambda a, b: (a + 1) * b  # noqa: E731
    for width, depth, points, frequencies in ((128, 3, 2, 3), (16, 1, 5, 0)):
        net = MLP(in_channels=points, width=width, depth=depth, frequencies=frequencies)
        block = 2 * linear(width, width) + linear(width, 2 * width)
        embedding = linear(64, width) + linear(width, width)
        ends = linear(points * (1 + 2 * frequencies), width) + linear(width, points)
        assert sum(p.numel() for p in net.parameters()) == embedding + depth * block + ends


def test_points_in_two_places_are_learned():
    """Flow matching of two points with their classes: the samples of each class are its point."""
    torch.manual_seed(0)
    module = DiffusionModule(MLP(width=32, depth=2, num_classes=2), StraightPath(), Flow())
    places = torch.tensor([[-1.0, 0.5], [1.0, -2.0]])[:, :, None, None]
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    for _ in range(150):
        labels = torch.randint(2, (128,))
        x0 = places[labels]
        losses = module.losses(x0, torch.randn_like(x0), torch.rand(128), labels)[1]
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    labels = torch.arange(64) % 2
    with torch.no_grad():
        found = module.denoise(torch.randn(64, 2, 1, 1), torch.ones(64), labels)
    assert (found - places[labels]).square().mean() < 0.05


@pytest.mark.parametrize("settings", [{"width": 0}, {"depth": 0}, {"frequencies": -1}])
def test_invalid_settings_are_rejected(settings):
    with pytest.raises(UserError, match=r"network\.width=.*expected"):
        MLP(**settings)

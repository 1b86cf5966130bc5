"""The diffusion transformer: against its formulas, positions, cost, settings."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusion_lab.diffusion import Flow, StraightPath
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.modules.cost import cost
from diffusion_lab.networks.dit import DiT, rotate, rotation

SMALL = {"patch_size": 2, "width": 16, "depth": 2, "heads": 2}


def randomised(**settings):
    torch.manual_seed(0)
    network = DiT(**SMALL | settings)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_dit_matches_its_formula(positions):
    """Compare with loops over patches and heads, and rotations as complex numbers."""
    net = randomised(in_channels=3, image_size=[4, 6], positions=positions, num_classes=2)
    x, time, labels = torch.randn(2, 3, 4, 6), torch.tensor([30.0, 800]), torch.tensor([1, 2])
    places = [(row, column) for row in range(2) for column in range(3)]

    def norm(h):
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def turned(h, place):
        """Channels k and k + 4 of a head of 8 are one complex number."""
        if positions == "learned":
            return h
        row, column = place
        angles = torch.tensor([row, row * 0.1, column, column * 0.1])
        number = torch.complex(h[..., :4], h[..., 4:]) * torch.polar(torch.ones(4), angles)
        return torch.cat([number.real, number.imag], -1)

    c = F.silu(net.embed.of_time(waves(time)) + net.embed.of_class.weight[labels])
    tokens = [
        net.tokens(x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)) for i, j in places
    ]
    h = torch.stack(tokens, 1)
    if positions == "learned":
        h = h + net.learned
    for block in net.blocks:
        shift, scale, gate, shift2, scale2, gate2 = (
            part[:, None] for part in block.modulation(c).split(16, -1)
        )
        q, k, v = block.qkv(norm(h) * (1 + scale) + shift).split(16, -1)
        seen = torch.zeros_like(h)
        for of_head in (slice(0, 8), slice(8, 16)):
            qs = norm(q[..., of_head]) * block.query_scale
            ks = norm(k[..., of_head]) * block.key_scale
            qs = torch.stack([turned(qs[:, n], place) for n, place in enumerate(places)], 1)
            ks = torch.stack([turned(ks[:, n], place) for n, place in enumerate(places)], 1)
            weights = torch.einsum("bid,bjd->bij", qs, ks).div(math.sqrt(8)).softmax(-1)
            seen[..., of_head] = torch.einsum("bij,bjd->bid", weights, v[..., of_head])
        h = h + gate * block.out(seen)
        h = h + gate2 * block.mlp(norm(h) * (1 + scale2) + shift2)
    shift, scale = (part[:, None] for part in net.modulation_out(c).split(16, -1))
    patches = net.out(norm(h) * (1 + scale) + shift)
    expected = torch.zeros_like(x)
    for n, (i, j) in enumerate(places):
        expected[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = patches[:, n].view(2, 3, 2, 2)
    torch.testing.assert_close(net(x, time, labels), expected, rtol=1e-4, atol=1e-4)


def waves(time):
    """Sines and cosines of 32 frequencies from 0.1 to 0.0001."""
    angles = time[:, None] * torch.logspace(-1, -4, 32)
    return torch.cat([angles.sin(), angles.cos()], -1)


def test_rotated_products_depend_on_the_offset_only():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    rows, columns = 4, 5
    by = rotation(rows, columns, 8, torch.device("cpu"))
    turned = [rotate(x.expand(-1, -1, rows * columns, -1), by)[0, 0] for x in (query, key)]
    products = (turned[0] @ turned[1].T).view(rows, columns, rows, columns)
    torch.testing.assert_close(products[0, 0, 2, 1], products[1, 3, 3, 4])
    torch.testing.assert_close(products[3, 0, 0, 2], products[3, 2, 0, 4])
    assert not torch.isclose(products[0, 0, 2, 1], products[0, 0, 1, 2])  # rows are not columns
    assert not torch.isclose(products[0, 0, 2, 1], products[2, 1, 0, 0])
    torch.testing.assert_close(turned[0].norm(dim=-1), query.norm().expand(rows * columns))


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_swapped_patches_do_more_than_swap_the_output(positions):
    net = randomised(image_size=8, positions=positions)
    x, time = torch.randn(1, 1, 8, 8), torch.zeros(1)
    swapped = torch.cat([x[:, :, 4:], x[:, :, :4]], 2)
    out = net(x, time)
    assert not torch.allclose(net(swapped, time), torch.cat([out[:, :, 4:], out[:, :, :4]], 2))


def test_the_output_is_the_same_with_every_attention_kernel():
    net = randomised(image_size=8)
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 900])
    with sdpa_kernel(SDPBackend.MATH):
        expected = net(x, time)
    torch.testing.assert_close(net(x, time), expected, rtol=1e-4, atol=1e-4)


def test_parameters_and_flops_equal_a_count_by_hand():
    """Linear layers have two FLOPs per weight and token; attention 4 L^2 width per block."""
    width, depth, tokens = 16, 2, 16
    net = DiT(in_channels=3, image_size=8, **SMALL, num_classes=5)
    block = 12 * width**2 + 9 * width + 6 * width * (width + 1) + 2 * width // 2
    embedding = 65 * width + width * (width + 1) + 6 * width
    ends = 13 * width + 2 * width * (width + 1) + 12 * (width + 1)
    assert sum(p.numel() for p in net.parameters()) == depth * block + embedding + ends
    per_token = 12 * width + depth * 12 * width**2 + 12 * width
    per_image = 64 * width + width**2 + depth * 6 * width**2 + 2 * width**2
    attention = depth * 4 * tokens**2 * width
    found = cost(DiffusionModule(net, StraightPath(), Flow(), num_classes=5), (3, 8, 8), 2)
    assert found["flops"] == 2 * (tokens * per_token + per_image) + attention


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_size": 30, "patch_size": 4}, ["patches of 4 x 4", "28 or data.image_size=32"]),
        ({"image_size": [32, 30], "patch_size": 4}, ["[32,28]", "change network.patch_size"]),
        ({"width": 20, "heads": 2}, ["network.width=20", "multiple of 4 * network.heads"]),
        ({"depth": 0}, ["network.depth=0"]),
        ({"heads": 0}, ["network.heads=0"]),
        ({"positions": "sinusoidal"}, ["network.positions=sinusoidal", "rotary or learned"]),
    ],
)
def test_invalid_settings_are_rejected_in_one_line(settings, words):
    with pytest.raises(UserError) as error:
        DiT(**SMALL | settings)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)

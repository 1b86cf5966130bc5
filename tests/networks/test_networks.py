import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding

from diffusion_lab.diffusion.prediction import VPrediction
from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.basic_unet import BasicUNet
from diffusion_lab.networks.fast_unet import FastUNet
from diffusion_lab.networks.unet2d import UNet2D


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts_match_the_tutorial():
    assert count(BasicUNet()) == 309_057
    assert count(UNet2D()) == 1_707_009


def test_basic_unet_matches_the_tutorials_forward_pass():
    """Compare with explicit convolutions, skips added after the activation."""
    torch.manual_seed(0)
    net, x = BasicUNet(), torch.rand(2, 1, 28, 28)
    act = torch.nn.functional.silu
    d, u = net.down, net.up
    h1 = act(d[0](x))
    h2 = act(d[1](torch.nn.functional.max_pool2d(h1, 2)))
    h3 = act(d[2](torch.nn.functional.max_pool2d(h2, 2)))
    y = act(u[0](h3))
    y = act(u[1](torch.nn.Upsample(scale_factor=2)(y) + h2))
    y = act(u[2](torch.nn.Upsample(scale_factor=2)(y) + h1))
    torch.testing.assert_close(net(x, torch.zeros(2)), y)


def test_fast_unet_matches_its_formula():
    """Compare with explicit layers: norms over whole images, scale and shift, one skip."""
    torch.manual_seed(0)
    net = FastUNet(width=4, depth=1, image_size=8, num_classes=3)
    for parameter in net.parameters():  # no parameter stays zero
        torch.nn.init.normal_(parameter, std=0.3)

    def norm(h):
        mean, var = h.mean((1, 2, 3), keepdim=True), h.var((1, 2, 3), correction=0, keepdim=True)
        return (h - mean) / (var + 1e-5).sqrt()

    def affine(h, layer):
        return norm(h) * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)

    def conv(h, layer, **how):
        return F.conv2d(h, layer.weight, layer.bias, **how)

    def block(h, layer):
        channels = layer.conv1.out_channels
        scale, shift = layer.modulation(embedding)[:, :, None, None].split(channels, dim=1)
        inner = norm(conv(F.silu(affine(h, layer.norm1)), layer.conv1, padding=1))
        inner = conv(F.silu(inner * (1 + scale) + shift), layer.conv2, padding=1)
        shortcut = h if h.shape[1] == channels else conv(h, layer.shortcut)
        return shortcut + inner

    x, time, labels = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0]), torch.tensor([0, 3])
    waves = get_timestep_embedding(time, 8)
    embedding = F.silu(net.embed(waves) + net.classes.weight[labels])
    skip = block(conv(F.pixel_unshuffle(x, 2), net.conv_in, padding=1), net.down[0])
    h = block(conv(skip, net.pool, stride=2), net.middle[0])
    h = block(torch.cat([h.repeat_interleave(2, 2).repeat_interleave(2, 3), skip], 1), net.up[0])
    out = conv(F.silu(affine(h, net.norm_out)), net.conv_out, padding=1)
    torch.testing.assert_close(net(x, time, labels), F.pixel_shuffle(out, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "last"), [(BasicUNet(), True), (FastUNet(), True), (UNet2D(), False)]
)
def test_weights_have_the_memory_format_of_the_network(network, last):
    module = DiffusionModule(network, VPSchedule(), VPrediction())
    kernels = [p for p in module.parameters() if p.dim() == 4 and min(p.shape) > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) == last for p in kernels)


def test_basic_unet_ignores_time_and_unet2d_with_use_time_false():
    x, early, late = torch.rand(2, 1, 28, 28), torch.zeros(2), torch.full((2,), 900.0)
    for network in (BasicUNet(), UNet2D(use_time=False)):
        assert torch.equal(network(x, early), network(x, late))
    assert not torch.equal(UNet2D()(x, early), UNet2D()(x, late))


def test_unet2d_at_time_zero_matches_diffusers():
    from diffusers import UNet2DModel
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    net = UNet2D(use_time=False)
    own = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    own.load_state_dict(net.unet.state_dict())
    x = torch.rand(2, 1, 28, 28)
    time, expected = torch.full((2,), 500.0), own(x, 0).sample
    torch.testing.assert_close(net(x, time), expected)
    for module in net.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor2_0())
    assert torch.equal(net(x, time), expected)  # bit for bit except the attention


def test_fast_unet_starts_at_zero_and_uses_time_once_trained():
    torch.manual_seed(0)
    net, x = FastUNet(), torch.rand(2, 1, 28, 28)
    assert not net(x, torch.zeros(2)).any()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(5):
        time = torch.tensor([0.0, 900.0])
        loss = (net(x, time) - time.view(-1, 1, 1, 1) / 900).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not torch.allclose(net(x, torch.zeros(2)), net(x, torch.full((2,), 900.0)))


def test_fast_unet_without_time_has_the_same_layers():
    """The untrained output is zero at every time, so the last layers are randomised first."""
    torch.manual_seed(0)
    seeing = FastUNet()
    for parameter in seeing.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    blind = FastUNet(use_time=False)
    blind.load_state_dict(seeing.state_dict())
    assert count(blind) == count(seeing)
    x, early, late = torch.rand(2, 1, 28, 28), torch.zeros(2), torch.full((2,), 900.0)
    assert not torch.allclose(seeing(x, early), seeing(x, late))
    assert torch.equal(blind(x, late), blind(x, early))
    assert torch.equal(blind(x, late), seeing(x, early))
    labels = torch.tensor([3, 4])
    conditional = FastUNet(use_time=False, num_classes=10)
    conditional.load_state_dict(
        {k: torch.randn_like(v) / 10 for k, v in conditional.state_dict().items()}
    )
    assert torch.equal(conditional(x, early, labels), conditional(x, late, labels))
    assert not torch.allclose(conditional(x, early, labels), conditional(x, early, labels + 1))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: UNet2D(norm_num_groups=24), "GroupNorm"),
        (lambda: UNet2D(attention_head_dim=24), "attention"),
        (lambda: UNet2D(block_out_channels=(32, 64)), "lists of the same length"),
        (lambda: UNet2D(down_block_types=("DownBlock2D", "No", "No")), "No"),
        (lambda: FastUNet(width=7), "even width"),
    ],
)
def test_invalid_sizes_are_rejected_in_one_line(make, word):
    with pytest.raises(UserError) as error:
        make()
    assert word in str(error.value) and "\n" not in str(error.value)

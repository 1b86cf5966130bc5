"""Every network takes any channel count and every size that it can halve, square or not."""

import pytest
import torch

from diffusion_lab.errors import UserError
from diffusion_lab.networks import MLP, BasicUNet, DiT, FastUNet, UNet2D
from diffusion_lab.networks.image_size import check_divisible, height_and_width

MULTIPLES = {BasicUNet: 4, FastUNet: 4, UNet2D: 4, DiT: 4, MLP: 1}
SMALL = {
    BasicUNet: {"channels": (4, 4, 4)},
    FastUNet: {"width": 4, "depth": 1},
    UNet2D: {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1},
    DiT: {"width": 8, "depth": 1, "heads": 1},
    MLP: {"width": 8, "depth": 1},
}


@pytest.mark.parametrize("network", MULTIPLES)
@pytest.mark.parametrize(
    ("channels", "factors"), [(1, 2), (2, (1, 3)), (4, [3, 2]), (7, (1, 1))], ids=str
)
def test_the_output_has_the_shape_of_the_input(network, channels, factors):
    multiple = MULTIPLES[network]
    size = factors * multiple if isinstance(factors, int) else [n * multiple for n in factors]
    net = network(in_channels=channels, image_size=size, **SMALL[network])
    x = torch.rand(2, channels, *height_and_width(size))
    assert net(x, torch.zeros(2)).shape == x.shape


@pytest.mark.parametrize("network", [BasicUNet, FastUNet, UNet2D, DiT])
def test_each_size_is_possible_or_the_error_names_the_nearest(network):
    for size in range(1, 13):
        below, above = size // 4 * 4, -(-size // 4) * 4
        if below == above:
            network(image_size=size, **SMALL[network])
            continue
        with pytest.raises(UserError) as error:
            network(image_size=size, **SMALL[network])
        message = str(error.value)
        assert f"data.image_size={size} is no multiple of 4" in message and "\n" not in message
        assert f"data.image_size={above}" in message
        assert (f"data.image_size={below}" in message.partition("possible")[2]) == (below > 0)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_the_levels_of_a_u_net_halve_once_less_than_they_are(levels):
    """The nearest possible sizes of the message are taken, and half of the multiple is not."""
    multiple = 2 ** (levels - 1)
    unet2d = {
        "block_out_channels": (4,) * levels,
        "down_block_types": ("DownBlock2D",) * levels,
        "up_block_types": ("UpBlock2D",) * levels,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    for network, settings in ((UNet2D, unet2d), (BasicUNet, {"channels": (2,) * levels})):
        net = network(image_size=3 * multiple, **settings)
        assert net(torch.rand(1, 1, 3 * multiple, 3 * multiple), torch.zeros(1)).isfinite().all()
        if levels > 1:
            with pytest.raises(
                UserError, match=f"{2 * multiple} or data.image_size={3 * multiple}"
            ):
                network(image_size=5 * multiple // 2, **settings)


def test_both_sides_of_a_pair_are_rounded():
    with pytest.raises(UserError) as error:
        check_divisible([30, 32], 8, "reason", ", or else")
    assert str(error.value) == (
        "reason, but data.image_size=[30,32] is no multiple of 8; nearest possible: "
        "data.image_size=[24,32] or data.image_size=[32,32], or else"
    )
    assert check_divisible((24, 32), 8, "reason") == (24, 32)


@pytest.mark.parametrize("size", [0, -4, True, 28.0, None, "28", [28], [28, 28, 1], [28, 0.5]])
def test_other_sizes_are_rejected(size):
    with pytest.raises(UserError, match=r"data\.image_size=.* expected a whole number"):
        height_and_width(size)


def test_unet2d_gives_diffusers_the_size():
    settings = SMALL[UNet2D]
    assert UNet2D(image_size=[16, 16], **settings).unet.config.sample_size == 16
    assert UNet2D(image_size=[16, 24], **settings).unet.config.sample_size == (16, 24)

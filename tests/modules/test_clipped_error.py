"""Errors of an image that will be clipped: none beyond black and white."""

import pytest
import torch

from diffusion_lab.diffusion import Flow, StraightPath
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.basic_unet import BasicUNet


class Answer(torch.nn.Module):
    """Gives the same output whatever it is asked."""

    def __init__(self, output):
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def forward(self, x_t, time, labels=None):
        return self.output


@pytest.mark.parametrize("t", [1.0, 0.4])
def test_beyond_black_and_white_is_no_error_where_it_will_be_clipped(t):
    x0 = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.5, 0.5]).view(1, 1, 1, 6)
    clean = torch.tensor([-1.3, -1.02, 1.2, 0.8, 1.7, 0.4]).view(1, 1, 1, 6)
    noise, time = torch.randn_like(x0), torch.tensor([t])
    # on the straight path x0 = x_t - t (noise - x0)
    output = ((1 - t) * x0 + t * noise - clean) / t
    module = DiffusionModule(
        Answer(output), StraightPath("gaussian"), Flow(), clipped_to="minus_one_one"
    )
    error, _ = module.losses(x0, noise, time)
    counts = torch.tensor([0.0, 1, 0, 1, 1, 1]).view(1, 1, 1, 6)
    # the velocity of black and white leads 0.1 beyond from pure noise, less from less
    wanted = torch.tensor([-1.0, -1 - 0.1 * t, 1.0, 1 + 0.1 * t, 0.5, 0.5]).view(1, 1, 1, 6)
    expected = (counts * (clean - wanted) ** 2 / t**2).mean()
    torch.testing.assert_close(error, expected[None])
    error.sum().backward()
    assert (module.network.output.grad != 0).equal(counts != 0)
    plain = DiffusionModule(Answer(output), StraightPath("gaussian"), Flow())
    torch.testing.assert_close(
        plain.losses(x0, noise, time)[0], ((clean - x0) ** 2 / t**2).mean()[None]
    )


def test_a_value_range_that_is_none():
    with pytest.raises(UserError, match=r"model\.clipped_to=unit: expected zero_one"):
        DiffusionModule(BasicUNet(), StraightPath(), Flow(), clipped_to="unit")

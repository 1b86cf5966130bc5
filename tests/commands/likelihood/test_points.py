"""Likelihood of points: no dequantisation, an exact trace, and the closed form of a mixture."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from diffusion_lab.commands.likelihood.bits_per_dim import Images, bits_by_ode
from diffusion_lab.data.points.distributions import DISTRIBUTIONS, STD
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import StraightPath, VESchedule

SCALE = STD / math.sqrt(0.5 + 0.1**2)
ANGLES = torch.arange(8) * math.pi / 4
CENTRES = SCALE * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
WIDTH = 0.1 * SCALE


class Exact:
    """The denoiser of eight Gaussians: a mean of the components' posterior means."""

    def __init__(self, noise_schedule):
        self.noise_schedule, self.device = noise_schedule, torch.device("cpu")

    def denoise(self, x_t, t):
        alpha, sigma = (
            f(t)[:, None] for f in (self.noise_schedule.alpha, self.noise_schedule.sigma)
        )
        x = x_t.flatten(1)
        variance = alpha**2 * WIDTH**2 + sigma**2
        apart = x[:, None] - alpha[..., None] * CENTRES
        shares = (-apart.square().sum(-1) / (2 * variance)).softmax(1)
        gain = alpha * WIDTH**2 / variance
        means = CENTRES + gain[..., None] * apart
        return (shares[..., None] * means).sum(1).view_as(x_t)


@pytest.mark.parametrize("schedule", [VESchedule(0.002, 80.0), StraightPath(noise="gaussian")])
def test_bits_are_those_of_the_mixture(schedule):
    points, _ = DISTRIBUTIONS["eight_gaussians"].sample(12, torch.Generator().manual_seed(0))
    run = SimpleNamespace(
        module=Exact(schedule), value_range=ValueRange("unbounded"), image_shape=(2, 1, 1)
    )
    found = bits_by_ode(
        run,
        Images(list(range(12)), points[:, :, None, None], None),
        lambda done: None,
        start_ratio=0.01,
        tolerance=1e-5,
        probes=1,
        draws=1,
        seed=0,
        batch_size=5,
    )
    width = math.hypot(WIDTH, 0.01)  # the data at the level where the ODE begins
    uniform = Categorical(torch.full((8,), 1 / 8))
    mixture = MixtureSameFamily(uniform, Independent(Normal(CENTRES, width), 1))
    expected = -mixture.log_prob(points) / (2 * math.log(2))
    torch.testing.assert_close(
        torch.tensor(found["per_image"]).float(), expected, atol=2e-3, rtol=0
    )
    assert found["probe_std"] is None and found["draw_std"] is None  # nothing is random

"""Directions of motion against the closed form for Gaussian points."""

import pytest
import torch
from matplotlib.quiver import Quiver

from diffusion_lab.diffusion import Sample, StraightPath, VESchedule, VPSchedule
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks import MLP
from diffusion_lab.sampling.point_figures import POSITIONS, PointFigures


class Gaussian(DiffusionModule):
    """The exact denoiser of points N(0, 1/4)."""

    def denoise(self, x_t, t, labels=None):
        alpha, sigma = self.noise_schedule.alpha(t), self.noise_schedule.sigma(t)
        gain = alpha / 4 / (alpha**2 / 4 + sigma**2)
        return gain.view(-1, 1, 1, 1) * x_t


@pytest.mark.parametrize(
    "schedule", [StraightPath(noise="gaussian"), VPSchedule(), VESchedule(0.01, 20.0)]
)
def test_gaussian_points_move_straight_to_the_centre(schedule):
    module = Gaussian(MLP(width=8, depth=1), schedule, Sample())
    real = torch.randn(20, 2, 1, 1)
    figure = PointFigures(real)._field(module)
    assert len(figure.axes) == len(POSITIONS)
    for ax in figure.axes:
        (arrows,) = (c for c in ax.collections if isinstance(c, Quiver))
        x, y = torch.as_tensor(arrows.XY).T
        u, v = torch.as_tensor(arrows.U), torch.as_tensor(arrows.V)
        radius, length = torch.hypot(x, y), torch.hypot(u, v)
        far = radius > 0.1
        inward = -(x * u + y * v) / (radius * length)
        # on these paths the deviation falls from 1 to 1/2 of the size shown, at every time
        assert inward[far].min() > 0.999
        torch.testing.assert_close(length / length.max(), radius / radius.max(), atol=5e-3, rtol=0)


def test_a_conditional_module_has_a_field_for_each_of_two_classes():
    module = DiffusionModule(
        MLP(width=8, depth=1, num_classes=3), StraightPath(), Sample(), num_classes=3
    )
    figure = PointFigures(None)._field(module)
    titles = [ax.get_title("left") for ax in figure.axes if ax.axison]
    assert len(titles) == 2 * len(POSITIONS)
    assert titles[0].endswith("class 0") and titles[-1].endswith("class 1")

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
def test_gaussian_points_keep_their_distance_in_standard_deviations(schedule):
    module = Gaussian(MLP(width=8, depth=1), schedule, Sample())
    figure = PointFigures(torch.randn(20, 2, 1, 1))._field(module)
    assert len(figure.axes) == len(POSITIONS)

    def deviation(position):
        """Standard deviation of x_t as shown: of unit size where the schedule would exceed it."""
        t = schedule.at(torch.tensor([position]))
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return torch.hypot(alpha / 2, sigma) / torch.hypot(alpha, sigma).clamp(min=1)

    for ax, position in zip(figure.axes, POSITIONS, strict=True):
        (arrows,) = (c for c in ax.collections if isinstance(c, Quiver))
        moved = torch.stack([torch.as_tensor(arrows.U), torch.as_tensor(arrows.V)], 1)
        growth = deviation(position - 0.01) / deviation(position) - 1
        expected = growth * torch.as_tensor(arrows.XY)
        factor = moved.norm() / expected.norm()  # arrows are scaled to be seen
        torch.testing.assert_close(moved, (factor * expected).to(moved), atol=2e-3, rtol=0)


def test_a_conditional_module_has_a_field_for_each_of_two_classes():
    module = DiffusionModule(
        MLP(width=8, depth=1, num_classes=3), StraightPath(), Sample(), num_classes=3
    )
    figure = PointFigures(None)._field(module)
    titles = [ax.get_title("left") for ax in figure.axes if ax.axison]
    assert len(titles) == 2 * len(POSITIONS)
    assert titles[0].endswith("class 0") and titles[-1].endswith("class 1")

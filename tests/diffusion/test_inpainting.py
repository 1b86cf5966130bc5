"""RePaint on every path: known pixels, the conditional distribution, the order of resampling."""

from itertools import pairwise

import pytest
import torch

from diffusion_lab.config.groups import noise_schedules
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import (
    StraightPath,
    VESchedule,
    VPSchedule,
)
from diffusion_lab.diffusion.editing import (
    check_resamplings,
    inpaint,
    repaint_order,
)
from diffusion_lab.diffusion.ideal_denoiser import ImagesOracle
from diffusion_lab.diffusion.samplers.base import image_generators
from diffusion_lab.errors import UserError
from tests.diffusion.test_editing import GAUSSIAN, PATHS, signs


@pytest.mark.parametrize("path", PATHS)
def test_inpainting_leaves_known_pixels_and_depends_on_the_seed_and_k_alone(path):
    schedule, value_range = noise_schedules()[path], ValueRange("minus_one_one")
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(3, 1, 16, 16)
    x0, known = value_range.encode(pixels), torch.rand(16, 16) < 0.5

    def paint(first, count):
        return inpaint(
            lambda x, t: x / 2,
            schedule,
            x0[:count],
            known,
            num_steps=10,
            jump_length=2,
            generators=image_generators(5, first, count),
        )

    x = paint(0, 3)
    assert torch.equal(x[..., known], x0[..., known])
    assert torch.equal(value_range.decode(x)[..., known], pixels[..., known])
    torch.testing.assert_close(paint(2, 1), x[2:])


@pytest.mark.parametrize(
    "schedule", [StraightPath(), VPSchedule(), VESchedule(sigma_min=0.01)], ids=["rf", "vp", "ve"]
)
def test_inpainting_draws_from_the_conditional_distribution(schedule):
    """1,000 pairs of correlated pixels, one known. In a single pass it is hardly heard."""
    mean, std, rho = 0.2, 0.8, 0.9
    covariance = std**2 * torch.tensor([[1, rho], [rho, 1]])

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t[:1]), schedule.sigma(t[:1])
        noisy = alpha**2 * covariance + sigma**2 * torch.eye(2)
        gain = alpha * covariance @ torch.linalg.inv(noisy)
        return mean + (x - alpha * mean) @ gain.T

    def unknown(resamplings, jump_length=5):
        x = inpaint(
            denoise,
            schedule,
            torch.tensor([mean + 1.0, 0.0]).expand(1, 1, 1000, 2),
            torch.tensor([True, False]),
            num_steps=100,
            resamplings=resamplings,
            jump_length=jump_length,
            generators=image_generators(0, 0, 1),
        )
        return x[..., 1]

    x = unknown(10)
    assert x.mean() == pytest.approx(mean + rho, abs=0.08)
    assert x.std() == pytest.approx(std * (1 - rho**2) ** 0.5, abs=0.05)
    assert unknown(1).mean() < mean + rho - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("path", GAUSSIAN)
def test_inpainting_returns_the_images_that_agree_with_the_known_half(path):
    schedule, images = noise_schedules()[path], signs(6)
    images[1, :, :2] = images[0, :, :2]
    known = torch.zeros(4, 4, dtype=torch.bool)
    known[:2] = True
    x = inpaint(
        ImagesOracle(schedule, images),
        schedule,
        images[:1].expand(40, 1, 4, 4),
        known,
        num_steps=40,
        generators=image_generators(0, 0, 40),
    )
    nearest = torch.cdist(x.flatten(1), images.flatten(1)).min(1)
    counts = nearest.indices[nearest.values < 0.1].bincount(minlength=6)
    assert counts[:2].sum() >= 38 and counts[:2].min() >= 8 and counts[2:].sum() == 0


@pytest.mark.parametrize(("num_steps", "resamplings", "jump_length"), [(50, 10, 5), (7, 3, 1)])
def test_the_order_of_resampling_is_diffusers(num_steps, resamplings, jump_length):
    from diffusers import RePaintScheduler

    scheduler = RePaintScheduler()
    scheduler.set_timesteps(num_steps, jump_length, resamplings)
    theirs = (scheduler.timesteps // (1000 // num_steps)).tolist()
    visited = [0]
    for here, there in pairwise(repaint_order(num_steps, resamplings, jump_length)):
        visited += [there] if there > here else range(here - 1, there - 1, -1)
    assert [num_steps - 1 - level for level in visited[:-1]] == theirs
    assert visited[-1] == num_steps
    assert repaint_order(num_steps, 1, jump_length) == list(range(num_steps + 1))


def test_resampling_is_refused_where_it_would_be_wrong_or_nothing():
    uniform, gaussian = StraightPath("uniform"), StraightPath()
    assert check_resamplings(uniform, 50, None, 5) == 1
    for arguments, word in [
        ((uniform, 50, 2, 5), "resamplings=1"),
        ((gaussian, 50, 0, 5), "at least 1"),
        ((gaussian, 50, 2, 0), "at least 1"),
        ((gaussian, 5, 2, 5), "less than num_steps=5"),
    ]:
        with pytest.raises(UserError, match=word):
            check_resamplings(*arguments)

"""Editing on every path, held against denoisers known in closed form."""

import math

import pytest
import torch

from diffusion_lab.config.groups import noise_schedules
from diffusion_lab.diffusion import (
    HeunSampler,
    StraightPath,
    VPSchedule,
    sample_steps,
)
from diffusion_lab.diffusion.editing import (
    decode,
    encode,
    image_to_image,
    inpaint,
    interpolate,
    spherical,
    strength_times,
)
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle, ImagesOracle
from diffusion_lab.diffusion.samplers.base import image_generators
from diffusion_lab.errors import UserError

MEAN, STD = -0.3, 0.4
PATHS = list(noise_schedules())
GAUSSIAN = [path for path in PATHS if path != "blend_uniform"]


def gaussian_images(count, shape=(1, 4, 4), seed=0):
    return MEAN + STD * torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def signs(count, shape=(1, 4, 4), seed=1):
    return torch.sign(torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)))


def exact_noise(schedule, x0, num_steps):
    """Where the exact deterministic path of GaussianOracle's images has x0's noise."""
    t = schedule.timesteps(num_steps)[:1]
    alpha, sigma = schedule.alpha(t).double(), schedule.sigma(t).double()
    spread = ((alpha * STD) ** 2 + sigma**2) ** 0.5
    return (alpha * MEAN + spread / STD * (x0 - MEAN)) / schedule.init_noise_sigma


@pytest.mark.parametrize("path", GAUSSIAN)
def test_encoding_gives_the_noise_of_the_exact_transport(path):
    schedule, x0 = noise_schedules()[path], gaussian_images(4)
    oracle = GaussianOracle(schedule, MEAN, STD)
    noise = encode(oracle, schedule, x0, num_steps=250)
    torch.testing.assert_close(noise.double(), exact_noise(schedule, x0, 250), atol=0.01, rtol=0.01)
    if math.isinf(schedule.max_ratio):  # pure noise
        torch.testing.assert_close(oracle.transport(noise), x0, atol=0.01, rtol=0)
    back = decode(oracle, schedule, noise, num_steps=250)
    torch.testing.assert_close(back, x0, atol=0.02, rtol=0)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("path", ["blend_gaussian", "edm", "cosine"])
def test_inversion_converges_at_the_order_of_the_step(path, second_order):
    schedule, x0 = noise_schedules()[path], gaussian_images(4).double()
    oracle = GaussianOracle(schedule, MEAN, STD)

    def denoise(x, t):
        return oracle(x.double(), t.double() if t.is_floating_point() else t)

    steps = (16, 32, 64, 128)
    there, and_back = [], []
    for num_steps in steps:
        how = {"num_steps": num_steps, "second_order": second_order}
        noise = encode(denoise, schedule, x0, **how)
        there.append((noise - exact_noise(schedule, x0, num_steps)).square().mean().sqrt())
        and_back.append((decode(denoise, schedule, noise, **how) - x0).square().mean().sqrt())
    # the way back ends on the prediction, as samplers do: an error of ratio^2, and the last ratio
    # of a VP path falls like the root of num_steps
    order_back = 1 if path == "cosine" else 1 + second_order
    for errors, order in ((there, 1 + second_order), (and_back, order_back)):
        slope = math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])
        assert slope > order - 0.25, errors


def test_on_the_uniform_path_a_single_image_comes_from_the_middle_of_the_noise():
    """Its path is the mean of all paths that end there; at the clean end the noise is its mean."""
    schedule, image = StraightPath("uniform"), torch.rand(1, 1, 4, 4)

    def denoise(x, t):
        return image.expand_as(x)

    noise = encode(denoise, schedule, image, num_steps=10)
    torch.testing.assert_close(noise, torch.full_like(image, 0.5))
    torch.testing.assert_close(decode(denoise, schedule, noise, num_steps=10), image)


@pytest.mark.parametrize("path", PATHS)
def test_the_denoiser_is_only_asked_at_times_of_the_path(path):
    schedule, asked = noise_schedules()[path], []

    def denoise(x, t):
        assert x.dtype == torch.float32 and t.shape == (len(x),)
        assert t.dtype in (torch.float32, torch.int64)
        asked.append(t[0])
        return torch.zeros_like(x)

    x0, how = torch.zeros(2, 1, 4, 4), {"num_steps": 6}
    drawn = how | {"generators": image_generators(0, 0, 2)}
    results = [
        encode(denoise, schedule, x0, **how),
        decode(denoise, schedule, x0, **how),
        interpolate(denoise, schedule, x0[0], x0[1] + 1, num_points=2, **how),
        image_to_image(denoise, schedule, x0, strength=0.7, **drawn),
        inpaint(denoise, schedule, x0, x0 > 1, jump_length=2, **drawn),
    ]
    assert all(torch.isfinite(x).all() for x in results)
    sigmas = schedule.sigma(torch.stack(asked))
    assert sigmas.min() > 0 and schedule.network_time(torch.stack(asked)).max() <= 1000.001


@pytest.mark.parametrize("path", PATHS)
def test_image_to_image_begins_at_the_image_and_ends_at_a_sample(path):
    schedule, x0 = noise_schedules()[path], gaussian_images(20, (1, 16, 16))
    oracle = GaussianOracle(schedule, MEAN, STD)

    def moved(strength):
        x = image_to_image(
            oracle,
            schedule,
            x0,
            strength=strength,
            num_steps=30,
            generators=image_generators(1, 0, 20),
        )
        return (x - x0).square().mean().sqrt().item(), x

    distances = [moved(strength)[0] for strength in (0.001, 0.1, 0.5, 1.0)]
    assert distances[0] < 0.02 + 1.5 * schedule.min_ratio  # the cleanest level has some noise
    assert distances == sorted(distances)
    if path != "blend_uniform":  # nothing left of x0: two independent images of the distribution
        assert distances[-1] == pytest.approx(STD * 2**0.5, rel=0.15)
        x = moved(0.5)[1]  # halfway they are images of the distribution too
        assert x.mean() == pytest.approx(MEAN, abs=0.05)
        assert x.std() == pytest.approx(STD, abs=0.05)


def test_image_to_image_at_full_strength_is_the_sampler():
    schedule = StraightPath()
    oracle = GaussianOracle(schedule, MEAN, STD)
    *_, last = sample_steps(oracle, schedule, HeunSampler(8), (1, 4, 4), num_images=3, seed=2)
    x = image_to_image(
        oracle,
        schedule,
        torch.ones(3, 1, 4, 4),
        strength=1.0,
        num_steps=8,
        generators=image_generators(2, 0, 3),
    )
    assert torch.equal(x, last.x_next)


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.01, math.nan])
def test_a_strength_off_the_path_is_refused(strength):
    with pytest.raises(UserError, match="above 0 and at most 1"):
        strength_times(StraightPath(), strength, 10)


def test_a_short_way_on_whole_timesteps_is_walked_without_standing_still():
    assert strength_times(VPSchedule(), 0.005, 50).tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("path", PATHS)
def test_interpolation_begins_and_ends_at_the_reconstructions(path):
    schedule, x0 = noise_schedules()[path], signs(2)
    oracle = ImagesOracle(schedule, signs(5))
    how = {"num_steps": 20}
    x = interpolate(oracle, schedule, x0[0], x0[1], num_points=5, **how)
    ends = decode(oracle, schedule, encode(oracle, schedule, x0, **how), **how)
    torch.testing.assert_close(x[[0, -1]], ends, atol=1e-4, rtol=1e-4)
    same = interpolate(oracle, schedule, x0[0], x0[0], num_points=3, **how)
    torch.testing.assert_close(same, ends[:1].expand(3, 1, 4, 4), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_on_the_arc_a_pixel_keeps_its_mean_and_spread(noise):
    schedule, generator = StraightPath(noise), torch.Generator().manual_seed(0)
    first, second = (schedule.draw_noise(torch.empty(1, 100, 100), generator) for _ in range(2))
    shares = torch.linspace(0, 1, 5)
    arc = spherical(first, second, shares, center=schedule.noise_mean)
    torch.testing.assert_close(arc[[0, -1]], torch.stack([first, second]))
    for points in arc:
        assert points.mean() == pytest.approx(schedule.noise_mean, abs=0.02)
        assert points.std() == pytest.approx(first.std().item(), rel=0.02)
    middle = torch.lerp(first, second, 0.5)  # what the straight line would give
    assert middle.std() < 0.75 * first.std()

"""The best denoisers of finite sets, against the posterior written out image by image."""

import pytest
import torch

from diffusion_lab.config.groups import noise_schedules
from diffusion_lab.diffusion import StraightPath
from diffusion_lab.diffusion.ideal_denoiser import ImagesOracle, UniformNoiseOracle, ideal_denoiser
from diffusion_lab.errors import UserError

GAUSSIAN = [path for path in noise_schedules() if path != "blend_uniform"]


def posterior_mean(schedule, images, x_t, t):
    """By Bayes, one x_t (C, H, W) after the other, with the densities of torch."""
    alpha, sigma = (f(t[None]).double() for f in (schedule.alpha, schedule.sigma))
    likelihood = torch.distributions.Normal(alpha * images.double(), sigma)
    logs = likelihood.log_prob(x_t).flatten(1).sum(1)
    weights = (logs - logs.logsumexp(0)).exp()
    return torch.einsum("n,nchw->chw", weights, images.double())


@pytest.fixture(scope="module")
def images():
    # more than two chunks
    return torch.rand(9000, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("path", GAUSSIAN)
def test_the_mean_of_the_posterior(path, images):
    schedule = noise_schedules()[path]
    generator = torch.Generator().manual_seed(1)
    t = schedule.span(7)[1:6]
    x0 = images[::2000]
    x_t = schedule.add_noise(x0, schedule.draw_noise(x0, generator), t)
    found = ImagesOracle(schedule, images)(x_t, t)
    expected = torch.stack(
        [posterior_mean(schedule, images, x.double(), each) for x, each in zip(x_t, t, strict=True)]
    )
    assert found.dtype == x_t.dtype
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_at_hardly_any_noise_it_tells_images_apart_that_float32_cannot():
    """Two images a millionth apart, seen through noise of a fifth of that."""
    base = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double() * 10
    other = base.clone()
    other[0, 0, 0, 0] += 1e-4
    images, t = torch.cat([base, other]), torch.tensor([2e-5]).double()
    schedule = StraightPath()
    x_t = (1 - t) * base
    found = ImagesOracle(schedule, images)(x_t, t)
    expected = posterior_mean(schedule, images, x_t[0], t[0])
    torch.testing.assert_close(found[0], expected, atol=1e-9, rtol=0)
    assert not torch.equal(expected, base[0])


def test_with_labels_the_images_of_the_class_alone(images):
    schedule, labels = StraightPath(), torch.arange(9000) % 3
    oracle = ideal_denoiser(schedule, images, labels)
    assert isinstance(oracle, ImagesOracle)
    x_t, t = (
        torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2)),
        torch.full((3,), 0.8),
    )
    found = oracle(x_t, t, torch.tensor([2, 0, 2]))
    for k, label in enumerate((2, 0, 2)):
        expected = ImagesOracle(schedule, images[labels == label])(x_t[k : k + 1], t[:1])
        torch.testing.assert_close(found[k : k + 1], expected)
    for known in (labels, None):
        with pytest.raises(UserError, match=r"classes \[7\]" if known is not None else "classes"):
            ideal_denoiser(schedule, images, known)(x_t, t, torch.tensor([2, 0, 7]))


def test_its_error_is_the_least(images):
    """No other function of x_t does better on the set, here: itself shrunk and stretched."""
    schedule, generator = StraightPath(), torch.Generator().manual_seed(3)
    few = images[:8]
    x0 = few[torch.randint(8, (4000,), generator=generator)]
    t = torch.full((4000,), 0.7)
    seen = ImagesOracle(schedule, few)(
        schedule.add_noise(x0, schedule.draw_noise(x0, generator), t), t
    )
    errors = [(c * seen - x0).square().mean() for c in (0.9, 1.0, 1.1)]
    assert errors[1] < errors[0] and errors[1] < errors[2]


def test_under_uniform_noise_all_that_are_possible_are_equally_likely():
    schedule, generator = StraightPath("uniform"), torch.Generator().manual_seed(0)
    images = torch.rand(60, 1, 2, 2, generator=generator)
    oracle = ideal_denoiser(schedule, images)
    assert isinstance(oracle, UniformNoiseOracle)
    several = 0
    for amount in (0.1, 0.5, 0.8, 0.95):
        t = torch.full((60,), amount)
        x_t = schedule.add_noise(images, schedule.draw_noise(images, generator), t)
        for x, found in zip(x_t.double(), oracle(x_t, t), strict=True):
            noise = (x - (1 - amount) * images.double()) / amount
            possible = ((noise > -1e-5) & (noise < 1 + 1e-5)).flatten(1).all(1)
            several += int(possible.sum() > 1)
            torch.testing.assert_close(found, images[possible].mean(0), atol=1e-6, rtol=0)
    assert several > 20


def test_under_uniform_noise_it_says_where_it_is_undefined():
    schedule = StraightPath("uniform")
    black, white = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    found = UniformNoiseOracle(schedule, black)(torch.cat([black, white]), torch.tensor([0.2, 0.2]))
    assert torch.equal(found[0], black[0])
    assert found[1].isnan().all()

"""A schedule, a prediction and a weighting that define no more than they must."""

import math

import pytest
import torch

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.config.groups import make_sampler, noise_schedules, refusal, words
from diffusion_lab.diffusion import (
    EDM,
    Epsilon,
    Flow,
    LogNormalTime,
    NoiseSchedule,
    Prediction,
    Sample,
    Score,
    VPrediction,
    Weighting,
    sample_steps,
)
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle
from tests.conftest import RUN

MEAN, STD = -0.3, 0.4
STEPS = {"blend": 200, "ddim": 200, "euler": 200, "ddpm": 500, "euler_ancestral": 250}
STEPS |= {"langevin": 601, "reverse_sde": 300}


class Cosine(NoiseSchedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

    def alpha(self, t):
        return torch.cos(math.pi / 2 * t)

    def sigma(self, t):
        return torch.sin(math.pi / 2 * t)


class Exploding(NoiseSchedule):
    """x_t = x0 + sigma noise, from 0.02 to 20."""

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return 0.02 * 1000**t


class HalfSample(Prediction):
    """x0 / 2."""

    def target(self, x0, noise, alpha, sigma):
        return x0 / 2

    def to_clean(self, output, x_t, alpha, sigma):
        return 2 * output


class Signal(Weighting):
    """alpha^2."""

    def weight(self, alpha, sigma, prediction):
        return alpha**2


def test_the_inverse_of_the_ratio_is_the_closed_form():
    t = torch.linspace(0, 1, 1001)[1:-1]
    path = Cosine()
    found = path.time_at_noise_ratio(torch.tan(math.pi / 2 * t))
    torch.testing.assert_close(found, t, atol=2e-6, rtol=1e-5)
    ends = path.time_at_noise_ratio(torch.tensor([0.0, math.inf]))
    assert ends.tolist() == [0, 1]
    path = Exploding()
    found = path.time_at_noise_ratio(torch.tensor([0.001, 0.02, 0.02 * 1000**0.3, 20.0, 500.0]))
    torch.testing.assert_close(found, torch.tensor([0, 0, 0.3, 1, 1]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("word", [w for w in noise_schedules() if "blend" in w or w == "edm"])
def test_the_inverse_of_the_ratio_is_that_of_the_schedules(word):
    """Bisection beside the exact formulas of the schedules that have one."""
    path = noise_schedules()[word]
    t = path.span(200)[1:-1]
    ratio = path.sigma(t) / path.alpha(t)
    torch.testing.assert_close(
        NoiseSchedule.time_at_noise_ratio(path, ratio), t, atol=2e-6, rtol=2e-5
    )


def test_limits_and_times_from_the_ends():
    cosine, exploding = Cosine(), Exploding()
    assert (cosine.min_ratio, cosine.max_ratio) == (0, math.inf)
    assert (exploding.min_ratio, exploding.max_ratio) == pytest.approx((0.02, 20))
    assert (cosine.init_noise_sigma, exploding.init_noise_sigma) == pytest.approx((1, 20))
    assert cosine.timesteps(4).tolist() == [1, 0.75, 0.5, 0.25]
    assert exploding.network_time(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 500, 1000]
    drawn = LogNormalTime().quantile(torch.tensor([0.0, 0.5, 1.0]), exploding)
    assert ((drawn >= 0) & (drawn <= 1)).all()


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("path", [Cosine(), Exploding()], ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("word", words("sampler"))
def test_every_sampler_lands_on_the_gaussian(path, word):
    sampler = make_sampler(word, num_steps=STEPS.get(word, 50))
    assert refusal(sampler, path) is None
    denoise = GaussianOracle(path, MEAN, STD)
    *_, last = sample_steps(denoise, path, sampler, (1, 32, 32), num_images=8, seed=0)
    # langevin's step of finite size inflates the spread; the path that ends at 20 is cut short
    slack = 0.08 if word == "langevin" else 0.03
    assert last.x_next.mean() == pytest.approx(MEAN, abs=slack)
    assert last.x_next.std() == pytest.approx(STD, abs=slack)


EXACT = [Sample(), Epsilon(), VPrediction(), Flow(), Score(), Score(times_sigma=True), EDM(0.3)]


@pytest.mark.parametrize("prediction", EXACT, ids=lambda p: type(p).__name__)
def test_the_weight_on_x0_follows_from_to_clean(prediction):
    alpha, sigma = torch.rand(2, 20).double() * 0.8 + 0.1
    torch.testing.assert_close(
        Prediction.x0_weight(prediction, alpha, sigma), prediction.x0_weight(alpha, sigma)
    )


def test_they_train_and_sample_together(tmp_path):
    here = __name__
    cfg = compose_config(
        [
            *RUN,
            "trainer.max_epochs=1",
            "~noise_schedule.noise",
            *(
                f"{node}._target_={here}.{kind.__name__}"
                for node, kind in (
                    ("noise_schedule", Cosine),
                    ("prediction", HalfSample),
                    ("weighting", Signal),
                )
            ),
        ],
        tmp_path / "run",
    )
    train(cfg)
    run = load_run(tmp_path / "run", trust=["tests"])
    assert run.module.prediction.name == "HalfSample"
    x0, noise, t = torch.rand(3, 1, 28, 28), torch.randn(3, 1, 28, 28), torch.rand(3)
    error, losses = run.module.losses(x0, noise, t)
    torch.testing.assert_close(losses, error * torch.cos(math.pi / 2 * t) ** 2)
    for word in words("sampler"):
        sampler = make_sampler(word, num_steps={"langevin": 6, "heun_discrete": 20}.get(word, 4))
        *_, last = sample_steps(
            run.module.denoise,
            run.module.noise_schedule,
            sampler,
            (1, 28, 28),
            num_images=2,
            seed=0,
        )
        assert last.x_next.isfinite().all(), word

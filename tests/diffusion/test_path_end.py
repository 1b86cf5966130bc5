"""The end of a path: other numbers of timesteps, and the bias where it is not noise."""

import pytest
import torch

from diffusion_lab.config.compose import compose_config
from diffusion_lab.config.groups import make_sampler, noise_schedules, option
from diffusion_lab.diffusion import VESchedule, VPSchedule, sample_steps
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle
from diffusion_lab.training.train import train
from tests.conftest import TINY


@pytest.mark.parametrize("count", [25, 50, 100, 250, 2000])
def test_betas_of_other_numbers_of_timesteps_are_rescaled(count):
    """improved-diffusion: linspace(1000 / T * 1e-4, 1000 / T * 0.02, T)."""
    scale = 1000 / count
    betas = torch.linspace(scale * 1e-4, scale * 0.02, count, dtype=torch.float64)
    expected = (1 - betas).cumprod(0)
    schedule = option("noise_schedule", "linear", num_train_timesteps=count)
    torch.testing.assert_close(schedule.alphas_cumprod.double(), expected, rtol=1e-4, atol=1e-7)
    assert schedule.signal_at_end < 0.01


@pytest.mark.parametrize("word", ["linear", "scaled_linear", "sigmoid"])
def test_the_path_ends_where_that_of_a_thousand_steps_does(word):
    ends = [
        option("noise_schedule", word, num_train_timesteps=n).signal_at_end for n in (100, 1000)
    ]
    assert ends[0] == pytest.approx(ends[1], abs=0.01)


def test_a_saved_run_keeps_its_betas():
    """Configurations of before have no beta_timesteps."""
    old = VPSchedule(num_train_timesteps=100, beta_start=1e-4, beta_end=0.02)
    betas = torch.linspace(1e-4, 0.02, 100)
    torch.testing.assert_close(old.alphas_cumprod, (1 - betas).cumprod(0))


@pytest.mark.parametrize(
    "schedule",
    [
        VPSchedule(num_train_timesteps=100),
        VPSchedule(num_train_timesteps=300),
        VESchedule(sigma_max=2.0),
    ],
)
def test_the_mean_of_samples_is_as_biased_as_the_warning_says(schedule):
    mean, std = -0.8, 0.3
    *_, last = sample_steps(
        GaussianOracle(schedule, mean, std),
        schedule,
        make_sampler("heun", num_steps=100),
        (1, 32, 32),
        num_images=8,
        seed=0,
    )
    assert schedule.signal_at_end > 0.05
    assert last.x_next.mean() == pytest.approx(schedule.sampled_mean(mean, std), abs=0.01)


def test_paths_that_end_in_noise_have_no_bias_to_speak_of():
    for word, schedule in noise_schedules().items():
        if schedule.signal_at_end <= 0.05:
            assert schedule.sampled_mean(-0.8, 0.3) == pytest.approx(-0.8, abs=0.015), word


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (["model=ddpm", "noise_schedule.num_train_timesteps=100"], False),
        (
            [
                "model=ddpm",
                "noise_schedule.num_train_timesteps=100",
                "noise_schedule.beta_timesteps=null",
            ],
            True,
        ),
        (["model=edm", "noise_schedule.sigma_max=3"], True),
    ],
)
def test_training_on_a_path_that_does_not_end_in_noise_warns(words, warned, tmp_path, caplog):
    config = compose_config([*TINY, *words], tmp_path)
    train(config)
    lines = [r.getMessage() for r in caplog.records if "starts from pure noise" in r.getMessage()]
    assert len(lines) == warned
    if warned:
        assert "\n" not in lines[0]
        assert "alpha = 0." in lines[0] and "noise_schedule." in lines[0]

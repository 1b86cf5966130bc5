"""Densities of noise levels and implied weightings against their closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from diffusion_lab.diffusion import (
    EDM,
    EDMWeighting,
    Epsilon,
    Flow,
    LogitNormalTime,
    LogNormalTime,
    Sample,
    StraightPath,
    UniformTime,
    UniformWeighting,
    VESchedule,
    VPrediction,
    VPSchedule,
)
from diffusion_lab.diffusion.log_snr import (
    implied_weighting,
    log_snr,
    log_snr_range,
    times_of,
)

UNIFORM, PLAIN = UniformTime(), UniformWeighting()


def sech(x):
    return 1 / np.cosh(x)


# Kingma & Gao 2023, table 1: w(lambda), the weighting of the epsilon loss, up to a factor
TABLE = {
    "flow": (UNIFORM, StraightPath(), PLAIN, Flow(), lambda x: np.exp(-x / 2)),
    "flow, sample": (
        UNIFORM,
        StraightPath(),
        PLAIN,
        Sample(),  # InDI
        lambda x: np.exp(-x) * sech(x / 4) ** 2,
    ),
    "epsilon, cosine": (
        UNIFORM,
        VPSchedule("squaredcos_cap_v2"),
        PLAIN,
        Epsilon(),
        lambda x: sech(x / 2),
    ),
    "v, cosine": (
        UNIFORM,
        VPSchedule("squaredcos_cap_v2"),
        PLAIN,
        VPrediction(),
        lambda x: np.exp(-x / 2),
    ),
    "EDM": (
        LogNormalTime(-1.2, 1.2),
        VESchedule(),
        EDMWeighting(0.5),
        EDM(0.5),
        lambda x: norm.pdf(x, 2.4, 2.4) * (np.exp(-x) + 0.5**2),
    ),
    "SD3": (
        LogitNormalTime(0.0, 1.0),
        StraightPath(),
        PLAIN,
        Flow(),
        lambda x: np.exp(-x / 2) * norm.pdf(x / 2) / (sech(x / 4) ** 2),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_implied_weightings_are_those_of_the_paper(name):
    time_sampling, schedule, weighting, prediction, expected = TABLE[name]
    implied = implied_weighting(time_sampling, schedule, weighting, prediction)
    middle = np.abs(implied.log_snr) < 6  # diffusers' cosine has an offset at its clean end
    ratio = implied.on_epsilon[middle] / expected(implied.log_snr[middle])
    assert middle.sum() > 200
    np.testing.assert_allclose(ratio / np.median(ratio), 1, atol=0.03)
    np.testing.assert_allclose(implied.on_x0, implied.on_epsilon * np.exp(implied.log_snr))
    assert np.trapezoid(implied.density, implied.log_snr) == pytest.approx(1, abs=0.01)


def test_the_density_of_uniform_times_on_the_straight_path():
    implied = implied_weighting(UNIFORM, StraightPath(), PLAIN, Flow())
    inner = slice(10, -10)
    expected = sech(implied.log_snr / 4) ** 2 / 8
    np.testing.assert_allclose(implied.density[inner], expected[inner], rtol=0.02)


@pytest.mark.parametrize("count", [2, 7, 700, 4000])
def test_any_number_of_timesteps_gives_a_smooth_density(count):
    schedule = VPSchedule(num_train_timesteps=count)
    implied = implied_weighting(UNIFORM, schedule, PLAIN, Epsilon())
    assert (np.diff(implied.log_snr) > 0).all()
    assert len(implied.log_snr) <= min(count, 1000)
    if count >= 700:
        steps = np.log(implied.density)
        assert np.abs(np.diff(steps))[5:-5].max() < 0.2


@pytest.mark.parametrize(
    "schedule", [StraightPath(), VPSchedule(), VPSchedule(rescale_betas_zero_snr=True)]
)
def test_the_range_leaves_out_what_is_rare(schedule):
    low, high = log_snr_range(UNIFORM, schedule)
    assert math.isfinite(low) and math.isfinite(high)
    t = UNIFORM.draw(100_000, schedule, generator=torch.Generator().manual_seed(0))
    levels = log_snr(schedule, t)
    outside = ((levels < low - 1e-5) | (levels > high + 1e-5)).float().mean()
    assert outside < 0.004
    times = times_of(schedule, torch.linspace(low, high, 9).double())
    found = log_snr(schedule, times)
    assert len(times) == 9
    assert (found - torch.linspace(low, high, 9)).abs().max() < 1.3  # the first step of DDPM

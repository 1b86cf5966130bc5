"""Likelihoods by the ODE against densities in closed form."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from diffusion_lab.commands.likelihood.bits_per_dim import Images, bits_by_ode, dequantise
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import StraightPath, VESchedule, VPSchedule
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle, ImagesOracle
from diffusion_lab.diffusion.likelihood.ode import check_start, log_density, rademacher
from diffusion_lab.errors import UserError
from diffusion_lab.runs.load import Run

PATHS = {
    "linear": StraightPath(),
    "vp_linear": VPSchedule("linear"),
    "vp_cosine": VPSchedule("squaredcos_cap_v2"),
    "vp_zero_snr": VPSchedule("scaled_linear", rescale_betas_zero_snr=True),
    "ve_geometric": VESchedule(0.01, 50.0, spacing="geometric"),
    "ve_edm": VESchedule(),
}
MEAN, STD = 0.3, 0.5


def generators(n, seed=0):
    return [torch.Generator().manual_seed(1000 * seed + k) for k in range(n)]


def all_signs(shape):
    """Every vector of signs, (2^d, B, C, H, W): their mean of v^T J v is the trace itself."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=math.prod(shape[1:]))))
    return signs.view(-1, 1, *shape[1:]).expand(-1, *shape)


def gaussian_log_density(schedule, x, start):
    """SciPy's density where the path ends, in sampler's noise, carried to the level `start`.

    With y = x_t / alpha, (y - mean) / sqrt(std^2 + ratio^2) is constant along the path.
    """
    here, end = math.hypot(STD, start), schedule.max_ratio
    if math.isinf(end):  # the ends agree
        return stats.norm(MEAN, here).logpdf(x).reshape(len(x), -1).sum(1)
    there = math.hypot(STD, end)
    y = MEAN + (x - MEAN) * there / here
    noise = schedule.init_noise_sigma if isinstance(schedule, VESchedule) else math.hypot(1, end)
    density = stats.norm(0, noise).logpdf(y) + math.log(there / here)
    return density.reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PATHS)
def test_the_ode_gives_the_density_of_a_gaussian(name, dtype):
    schedule = PATHS[name]
    x = (MEAN + STD * torch.randn(3, 2, 4, 4, generator=generators(1)[0])).to(dtype)
    probes = rademacher((2, 2, 4, 4), generators(3))
    for ratio in (0.002, 0.3):
        start = max(ratio, schedule.min_ratio)
        check_start(schedule, start)
        expected = gaussian_log_density(schedule, x.double().numpy(), start)
        for tolerance, closeness in ((1e-3, 1e-3), (1e-5, 1e-5)):  # nats a dimension
            found = log_density(
                GaussianOracle(schedule, MEAN, STD),
                schedule,
                x,
                probes,
                start_ratio=start,
                tolerance=tolerance,
            )
            assert found.log_density.shape == (2, 3)
            assert np.abs(found.log_density.numpy() - expected).max() / 32 < closeness
            assert (found.num_calls % 6 == 1).all() and found.num_calls.max() < 70


@pytest.mark.parametrize(
    "schedule",
    # VE's prior leaves out what is left of the images at its end, a share of about 1 / sigma_max
    [StraightPath(), VPSchedule("squaredcos_cap_v2"), VESchedule(sigma_max=5000.0)],
    ids=["linear", "vp_cosine", "ve"],
)
def test_the_ode_gives_the_density_of_a_smoothed_mixture(schedule):
    """The marginal of a finite set at a level is a mixture of Gaussians: known, far from one."""
    start = 0.4
    images = torch.rand(3, 1, 2, 2, generator=generators(1)[0]).double() * 2 - 1
    x = images + start * torch.randn(3, 1, 2, 2, generator=generators(1, 1)[0])
    x = torch.cat([x, x.mean(0, keepdim=True)])  # and one between the modes
    probes = all_signs(x.shape)
    found = log_density(
        ImagesOracle(schedule, images),
        schedule,
        x,
        probes,
        start_ratio=start,
        tolerance=1e-5,
    ).log_density
    modes = [stats.multivariate_normal(m.flatten(), start**2) for m in images.numpy()]
    densities = sum(mode.pdf(x.flatten(1).numpy()) for mode in modes) / 3
    assert np.abs(found.mean(0).numpy() - np.log(densities)).max() < 2e-3
    # a trace was needed: single probes see off-diagonal terms of its Jacobian
    assert (found.std(0) > 1e-2).all()


def test_the_mean_of_random_probes_is_the_trace_within_their_spread():
    schedule = StraightPath()
    denoise = ImagesOracle(schedule, torch.rand(3, 1, 2, 2, generator=generators(1)[0]).double())
    x = torch.rand(4, 1, 2, 2, generator=generators(1, 1)[0]).double()
    settings = {"start_ratio": 0.4, "tolerance": 1e-2}
    exact = log_density(denoise, schedule, x, all_signs(x.shape), **settings).log_density.mean(0)
    probes = rademacher((60, 1, 2, 2), generators(4, 2))
    found = log_density(denoise, schedule, x, probes, **settings).log_density
    assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / math.sqrt(60)).all()
    assert (found.std(0) > 1e-3).all()


def test_an_image_does_not_depend_on_its_batch():
    schedule = StraightPath()
    images = torch.rand(3, 1, 2, 2, generator=generators(1)[0]).double()
    # at a mode, between two, near, and far away
    between = (images[:1] + images[1:2]) / 2
    x = torch.cat([images[:1], between, between + 0.05, images[2:] - 0.1, images[:1] + 2])
    probes = rademacher((2, 1, 2, 2), generators(5))
    settings = {"start_ratio": 0.05, "tolerance": 1e-3}
    denoise = ImagesOracle(schedule, images)
    together = log_density(denoise, schedule, x, probes, **settings)
    assert together.num_calls.unique().numel() > 1
    for k in range(5):
        alone = log_density(denoise, schedule, x[k : k + 1], probes[:, k : k + 1], **settings)
        assert alone.num_calls == together.num_calls[k]
        torch.testing.assert_close(
            alone.log_density[:, 0], together.log_density[:, k], rtol=0, atol=1e-9
        )


def test_a_denoiser_that_is_not_finite_is_told():
    with pytest.raises(UserError, match="step size"):
        log_density(
            lambda x, t: x * math.nan,
            StraightPath(),
            torch.zeros(2, 1, 2, 2),
            torch.ones(1, 2, 1, 2, 2),
            start_ratio=0.01,
            tolerance=1e-3,
        )


@pytest.mark.parametrize(
    ("schedule", "ratio", "words"),
    [
        (StraightPath("uniform"), 0.01, "uniform.*Gaussian"),
        (VPSchedule(), 0.009, "start_ratio=0.009: .* from 0.01 "),
        (StraightPath(), 0.0, "start_ratio=0"),
        (StraightPath(), math.nan, "start_ratio=nan"),
        (VESchedule(), 80.0, "below 80"),
    ],
)
def test_levels_without_a_density_are_refused(schedule, ratio, words):
    with pytest.raises(UserError, match=words):
        check_start(schedule, ratio)


@pytest.mark.parametrize("name", ["zero_one", "minus_one_one"])
def test_dequantised_pixels_are_decoded_to_themselves_and_their_width_is_counted(name):
    value_range = ValueRange(name)
    pixels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    for share in (0.001, 0.5, 0.999):
        assert (
            value_range.decode(dequantise(pixels, torch.tensor(share), value_range)) == pixels
        ).all()

    schedule = StraightPath()
    module = SimpleNamespace(
        denoise=GaussianOracle(schedule, MEAN, STD), noise_schedule=schedule, device="cpu"
    )
    run = Run(Path(), {}, module, value_range, (1, 8, 8), "raw")
    images = Images(list(range(4)), pixels, None)
    shares: list[float] = []
    settings = {"start_ratio": 1e-3, "tolerance": 1e-5, "probes": 2, "seed": 0}
    found = bits_by_ode(run, images, shares.append, draws=2, batch_size=3, **settings)
    # what a Gaussian gives to each level by SciPy, however the range is scaled
    edges = value_range.low + (np.arange(257) - 0.5) / 255 * (value_range.high - value_range.low)
    levels = np.diff(stats.norm(MEAN, STD).cdf(edges))
    expected = -np.log2(levels).reshape(4, 64).mean(1)
    assert found["per_image"] == pytest.approx(expected.tolist(), abs=0.01)
    assert found["bits_per_dim"] == pytest.approx(expected.mean(), abs=0.005)
    assert found["standard_error"] == pytest.approx(np.std(found["per_image"], ddof=1) / 2)
    assert found["probe_std"] < 1e-6  # the Jacobian is a multiple of 1: every probe has its trace
    assert 1e-4 < found["draw_std"] < 0.1
    assert shares == sorted(shares) and shares[-1] == pytest.approx(4)
    again = bits_by_ode(run, images, shares.append, draws=2, batch_size=4, **settings)
    assert again["per_image"] == pytest.approx(found["per_image"], abs=1e-5)

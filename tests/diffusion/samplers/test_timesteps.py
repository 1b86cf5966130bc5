"""Timesteps of the samplers for every number of steps, and their effect on a sample."""

import pytest
import torch

from diffusion_lab.config.groups import make_sampler, noise_schedules, refusal, words
from diffusion_lab.diffusion import StraightPath, VPSchedule, sample_steps
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle
from diffusion_lab.diffusion.samplers import DiffusersSampler
from diffusion_lab.diffusion.samplers.scheduler_options import SPACINGS
from diffusion_lab.diffusion.samplers.scheduler_spaces import SPACES
from diffusion_lab.errors import UserError
from tests.diffusion.samplers.test_samplers import noises_seen

MEAN, STD = -0.3, 0.4
SHORT = VPSchedule(num_train_timesteps=100)
ONE_STEP_TOO_FAR = (61, 103, 121, 122, 201, 206)
"""Some of the numbers of steps at which numpy's arange(1000, 0, -1000 / n) has n + 1 elements."""


@pytest.mark.slow
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", [name for name, space in SPACES.items() if space.vp])
def test_n_steps_are_n_distinct_times_of_the_schedule(name, spacing):
    for n in range(1, 101):
        scheduler = DiffusersSampler(name, n, timestep_spacing=spacing).make_scheduler(SHORT)
        times = scheduler.timesteps.unique_consecutive()
        calls = 2 * n - 1 if "Heun" in name else n
        assert len(scheduler.timesteps) == calls
        assert len(times) == n == scheduler.num_inference_steps
        assert (times.diff() < 0).all()
        assert times[-1] >= 0 and times[0] < 100
        if hasattr(scheduler, "sigmas"):
            assert len(scheduler.sigmas) == calls + 1
            assert scheduler.sigmas[-1] <= scheduler.sigmas[-2]


@pytest.mark.parametrize("n", ONE_STEP_TOO_FAR)
@pytest.mark.parametrize("name", [name for name, space in SPACES.items() if space.vp])
def test_trailing_steps_end_within_a_thousand(name, n):
    schedule = VPSchedule()
    scheduler = DiffusersSampler(name, n).make_scheduler(schedule)
    times = scheduler.timesteps.unique_consecutive()
    torch.testing.assert_close(times.long(), schedule.timesteps(n), atol=1, rtol=0)
    assert times[-1] == schedule.timesteps(n)[-1]


def end_of(sampler, schedule, denoise, num_images=4):
    *_, last = sample_steps(denoise, schedule, sampler, (1, 16, 16), num_images=num_images, seed=0)
    return last.x_next


@pytest.mark.slow
@pytest.mark.parametrize("word", ["ddpm", "dpm_solver", "unipc", "euler"])
def test_no_number_of_steps_misses_the_gaussian(word):
    schedule = noise_schedules()["linear"]
    oracle = GaussianOracle(schedule, MEAN, STD)
    settings = {"clip_sample": False} if word == "ddpm" else {}
    spreads = {}
    several = (*range(1, 12), *range(28, 34), *range(48, 54))
    for n in several:
        x = end_of(make_sampler(word, num_steps=n, **settings), schedule, oracle)
        assert x.mean() == pytest.approx(MEAN, abs=0.03 + 0.1 / n), n
        spreads[n] = x.std().item()
        assert spreads[n] == pytest.approx(STD, abs=0.03 + 2.5 / n), n
    for n in several:
        if n < 21 or not {n - 1, n + 1} <= {*several}:
            continue
        assert spreads[n] == pytest.approx((spreads[n - 1] + spreads[n + 1]) / 2, abs=0.02), n


@pytest.mark.parametrize(
    "word", ["ddpm", "dpm_solver", "unipc", "deis", "dpm_solver_sde", "euler", "heun_discrete"]
)
def test_a_number_of_steps_is_as_good_as_its_neighbour(word):
    """At 29 and 31 of 100 timesteps the last step was one of pure noise."""
    oracle = GaussianOracle(SHORT, MEAN, STD)
    ends = [end_of(make_sampler(word, num_steps=n), SHORT, oracle) for n in (29, 30, 31)]
    for x in ends:
        assert x.mean().item() == pytest.approx(ends[1].mean().item(), abs=0.02)
        assert x.std().item() == pytest.approx(ends[1].std().item(), abs=0.02)


STOCHASTIC = {
    "ddpm": [{"variance_type": v} for v in ("fixed_small", "fixed_small_log", "fixed_large")],
    "ddim": [{"eta": 1.0}],
    "dpm_solver_sde": [{}, {"algorithm_type": "sde-dpmsolver"}, {"solver_order": 3}],
    "euler_ancestral": [{}],
    "edm_dpm_solver": [{"algorithm_type": "sde-dpmsolver++"}],
    "langevin": [{}],
    "reverse_sde": [{}],
}


def test_every_stochastic_sampler_is_known():
    found = {word for word in words("sampler") if make_sampler(word).stochastic}
    assert found == STOCHASTIC.keys() - {"ddim", "edm_dpm_solver"}


@pytest.mark.parametrize(
    ("word", "settings"), [(w, s) for w, cases in STOCHASTIC.items() for s in cases]
)
@pytest.mark.parametrize("num_steps", [1, 10])
@pytest.mark.parametrize("path", ["linear", "blend_gaussian"])
@pytest.mark.filterwarnings("ignore:.*dpmsolver is deprecated:FutureWarning")
def test_no_noise_is_left_after_the_last_step(word, settings, num_steps, path):
    if word == "langevin":
        num_steps = 5 * num_steps + 1
    sampler, schedule = make_sampler(word, num_steps=num_steps, **settings), noise_schedules()[path]
    assert sampler.stochastic
    assert refusal(sampler, schedule) is None
    x = end_of(sampler, schedule, lambda x, t: torch.zeros_like(x))
    assert x.abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("word", words("sampler"))
@pytest.mark.parametrize("path", noise_schedules())
def test_the_image_that_a_perfect_denoiser_sees_is_the_result(word, path):
    """DEIS stopped at the first level of the table: up to four gray levels of noise."""
    schedule, image = noise_schedules()[path], torch.rand(1, 16, 16)
    sampler = make_sampler(word, num_steps=51 if word == "langevin" else 20)
    if refusal(sampler, schedule) is None:
        x = end_of(sampler, schedule, lambda x, t: image.expand_as(x))
        torch.testing.assert_close(x, image.expand_as(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", ["karras", "exponential", "beta", "lu"])
@pytest.mark.parametrize("word", ["dpm_solver", "unipc", "deis"])
def test_the_denoiser_is_asked_at_the_level_that_x_is_at(word, grid):
    """x = alpha x0 + sigma noise with one noise, at levels between those of the table too."""
    schedule, image = VPSchedule(), torch.rand(1, 8, 8)
    option = "use_lu_lambdas" if grid == "lu" else f"use_{grid}_sigmas"
    if grid == "lu" and word != "dpm_solver":
        with pytest.raises(UserError, match="not an option"):
            make_sampler(word, **{option: True})
        return
    sampler = make_sampler(word, num_steps=10, solver_order=1, **{option: True})
    noises, _ = noises_seen(sampler, schedule, image)
    for noise in noises[2:]:
        torch.testing.assert_close(noise, noises[1], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("word", ["flow_euler", "flow_heun"])
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("path", ["linear", "edm", "blend_gaussian"])
def test_a_shifted_flow_begins_at_the_end_of_every_path(word, shift, path):
    schedule = noise_schedules()[path]
    sampler = make_sampler(word, num_steps=40, shift=shift)
    sampler.check(schedule)
    sigma = sampler.make_scheduler(schedule).sigmas[0].item()
    end = StraightPath().time_at_noise_ratio(torch.tensor([schedule.max_ratio])).item()
    assert sigma == pytest.approx(end, rel=1e-5)
    x = end_of(sampler, schedule, GaussianOracle(schedule, MEAN, STD))
    assert x.mean() == pytest.approx(MEAN, abs=0.02)
    assert x.std() == pytest.approx(STD, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [2, 3, 5, 10, 20, 50, 100])
@pytest.mark.parametrize("path", [p for p in noise_schedules() if p != "blend_uniform"])
def test_heuns_long_first_step_is_rejected_or_leaves_no_noise(path, num_steps):
    """On the cosine schedule 20 steps gave a standard deviation of 0.71 in place of 0.4."""
    schedule = noise_schedules()[path]
    sampler = make_sampler("heun_discrete", num_steps=num_steps)
    reason = refusal(sampler, schedule)
    if reason is not None:
        assert "sampler=heun" in reason or "zero terminal SNR" in reason
        return
    x = end_of(sampler, schedule, GaussianOracle(schedule, MEAN, STD))
    few = {2: 0.5, 3: 0.6, 5: 0.3}.get(num_steps, 0.08)  # EDM's own spacing at so few steps
    assert x.std().item() < STD + few

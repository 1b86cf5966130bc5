"""Every sampler on every path, held against denoisers known in closed form."""

import math

import pytest
import torch

from diffusion_lab.config.groups import make_sampler, noise_schedules, refusal, spacings, words
from diffusion_lab.diffusion import StraightPath, VESchedule, VPSchedule, sample_steps
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle, ImagesOracle
from diffusion_lab.diffusion.samplers.base import image_generators
from diffusion_lab.errors import UserError
from diffusion_lab.tools.sampler_order import FIRST_ORDER, SECOND_ORDER, errors
from tests.conftest import EXHAUSTIVE

MEAN, STD = -0.3, 0.4
SAMPLERS = words("sampler")
# first-order and stochastic samplers need more steps than the second-order ones for the same error
STEPS = {"blend": 200, "ddim": 200, "euler": 200, "ddpm": 500, "euler_ancestral": 250}
STEPS |= {"langevin": 601, "reverse_sde": 300}
FEW = ("linear", "blend_gaussian", "edm", "sigmoid")
"""One noise schedule of each kind."""
CELLS = [
    (path, sampler, spacing)
    for path in noise_schedules()
    for sampler in SAMPLERS
    for spacing in spacings(sampler)
]


def walk(denoise, schedule, sampler, num_images=8, shape=(1, 32, 32), seed=0):
    *_, last = sample_steps(denoise, schedule, sampler, shape, num_images=num_images, seed=seed)
    return last.x_next


def noises_seen(sampler, schedule, image):
    """The noise in x_t at every step, if all of x_t but the image is noise; and the result."""
    noises = []
    for step in sample_steps(
        lambda x, t: image.expand_as(x), schedule, sampler, (1, 8, 8), num_images=2, seed=0
    ):
        alpha, sigma = schedule.alpha(step.t[None]), schedule.sigma(step.t[None])
        noises.append((step.x_t - alpha * image) / sigma)
    return noises, step.x_next


@pytest.mark.parametrize(
    ("path", "word", "spacing"),
    [
        pytest.param(
            path,
            sampler,
            spacing,
            marks=()
            if spacing in (None, "trailing")
            and (sampler not in STEPS or path in ("cosine", "linear"))
            else EXHAUSTIVE,
        )
        for path, sampler, spacing in CELLS
    ],
)
def test_every_cell_lands_on_the_gaussian_or_is_refused(path, word, spacing):
    schedule = noise_schedules()[path]
    sampler = make_sampler(word, spacing, num_steps=STEPS.get(word, 50))
    reason = refusal(sampler, schedule)
    if reason is not None:
        assert "\n" not in reason
        return
    if schedule.noise == "uniform":  # its best denoiser is no closed form: a single image instead
        image = torch.rand(1, 32, 32)
        x = walk(lambda x, t: image.expand_as(x), schedule, sampler)
        assert (x - image).abs().max() < 0.05
        return
    x = walk(GaussianOracle(schedule, MEAN, STD), schedule, sampler)
    # "leading" and "linspace" begin or end short of the path, with an error of their own
    slack = 0.03 if spacing in (None, "trailing") else 0.12
    if word == "langevin":  # a step of finite size inflates the stationary spread
        slack = 0.08
    assert x.mean() == pytest.approx(MEAN, abs=slack)
    assert x.std() == pytest.approx(STD, abs=slack)


@pytest.mark.slow
@pytest.mark.parametrize("word", SAMPLERS)
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path in FEW else EXHAUSTIVE)
        for path in noise_schedules()
        if path != "blend_uniform"
    ],
)
def test_every_sampler_draws_one_of_the_images(path, word):
    schedule = noise_schedules()[path]
    if refusal(make_sampler(word), schedule) is not None:
        return
    images = torch.sign(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    x = walk(
        ImagesOracle(schedule, images),
        schedule,
        make_sampler(word, num_steps=STEPS.get(word, 40)),
        num_images=40,
        shape=(1, 8, 8),
    )
    distances = torch.cdist(x.flatten(1), images.flatten(1)) / 8  # root mean square
    nearest = distances.min(1)
    assert nearest.values.max() < 0.1
    assert len(nearest.indices.unique()) == 5


@pytest.mark.parametrize(
    ("word", "path", "order"), [(*c, 1) for c in FIRST_ORDER] + [(*c, 2) for c in SECOND_ORDER]
)
def test_the_error_falls_at_the_order_of_the_sampler(word, path, order):
    steps = (16, 32, 64, 128)
    found = errors(word, noise_schedules()[path], steps)
    slope = -(math.log(found[-1]) - math.log(found[0])) / math.log(steps[-1] / steps[0])
    assert slope == pytest.approx(order, abs=0.25)


def test_flow_euler_is_diffusers_own_loop():
    import diffusers

    torch.manual_seed(0)
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    schedule = StraightPath()
    steps = list(
        sample_steps(
            lambda x, t: x - t.view(-1, 1, 1, 1) * net(x),
            schedule,
            make_sampler("flow_euler", num_steps=10),
            (1, 8, 8),
            num_images=3,
            seed=0,
        )
    )
    own = diffusers.FlowMatchEulerDiscreteScheduler()
    own.set_timesteps(sigmas=[1 - i / 10 for i in range(10)])
    x = steps[0].x_t
    for t, step in zip(own.timesteps, steps, strict=True):
        torch.testing.assert_close(step.x_t, x, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            x = own.step(net(x), t, x).prev_sample
    torch.testing.assert_close(steps[-1].x_next, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("word", "spacing"),
    [
        (word, spacing)
        for word in ("ddpm", "ddim", "dpm_solver", "unipc", "deis", "euler")
        for spacing in ("leading", "linspace", "trailing")
        if (word, spacing) != ("ddim", "linspace")
    ],
)
def test_vp_samplers_are_diffusers_own_loops_step_by_step(word, spacing):
    """An epsilon network in diffusers' loop, the same one behind our denoiser."""
    torch.manual_seed(0)
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    schedule = VPSchedule()

    def denoise(x, t):
        a, s = schedule.alpha(t).view(-1, 1, 1, 1), schedule.sigma(t).view(-1, 1, 1, 1)
        return (x - s * net(x)) / a

    sampler = make_sampler(word, spacing, num_steps=20)
    steps = sample_steps(denoise, schedule, sampler, (1, 8, 8), num_images=1, seed=4)
    own = sampler.scheduler_class.from_config(
        schedule.scheduler_config
        | sampler.config
        | {"prediction_type": "epsilon", "use_karras_sigmas": False}
    )
    own.set_timesteps(20)
    [generator] = image_generators(4, 0, 1)
    x = torch.randn(1, 8, 8, generator=generator)[None] * own.init_noise_sigma
    options = {"generator": generator} if word == "ddpm" else {}
    times = own.timesteps[:-1] if word == "deis" else own.timesteps  # its last step leaves noise
    for t, step in zip(times, steps, strict=word != "deis"):
        with torch.no_grad():
            x = own.step(net(own.scale_model_input(x, t)), t, x, **options).prev_sample
        # x0_hat = (x - sigma eps) / alpha loses 2 digits to alpha = 0.006 at the noisy end
        torch.testing.assert_close(step.x_next, x, atol=2e-4, rtol=2e-4)


def test_the_tutorials_blend_is_euler_is_ddim_in_numbers():
    """One Gaussian oracle, one noise: three samplers in three coordinate systems agree."""
    schedule = StraightPath()
    oracle = GaussianOracle(schedule, MEAN, STD)
    blend = walk(oracle, schedule, make_sampler("blend", num_steps=20))
    euler = walk(oracle, schedule, make_sampler("flow_euler", num_steps=20))
    torch.testing.assert_close(blend, euler, atol=1e-5, rtol=1e-5)

    vp = VPSchedule()
    oracle = GaussianOracle(vp, MEAN, STD)
    blend = walk(oracle, vp, make_sampler("blend", num_steps=20))
    ddim = walk(oracle, vp, make_sampler("ddim", num_steps=20, clip_sample=False))
    torch.testing.assert_close(blend, ddim, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", [1, 4, 5, 8, 25, 100, 1000])
def test_ddim_goes_to_the_levels_that_it_asks_at(spacing, num_steps):
    """x = alpha x0 + sigma noise at every step, with the noise it began with and an x0 that is."""
    schedule, image = VPSchedule(), torch.rand(1, 8, 8)
    sampler = make_sampler("ddim", spacing, num_steps=num_steps)
    sampler.check(schedule)
    noises, result = noises_seen(sampler, schedule, image)
    for noise in noises[1:]:  # at the first it is given none of the image
        torch.testing.assert_close(noise, noises[1], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(result, image.expand(2, 1, 8, 8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("spacing", "num_steps", "near"),
    [("linspace", 10, 10), ("trailing", 15, 10), ("trailing", 240, 250), ("trailing", 600, 500)],
)
def test_ddim_refuses_spacings_that_its_step_does_not_follow(spacing, num_steps, near):
    with pytest.raises(UserError, match=f"num_steps={near}, or sampler=blend"):
        make_sampler("ddim", spacing, num_steps=num_steps).check(VPSchedule())


def test_gradients_stay_as_they_are_where_the_steps_are_looked_at():
    schedule = StraightPath()
    sampler = make_sampler("blend")
    walked = sample_steps(lambda x, t: x, schedule, sampler, (1, 4, 4), num_images=1, seed=0)
    next(walked)
    assert torch.is_grad_enabled()


def test_a_path_is_walked_in_the_coordinates_of_another():
    """DDIM on a straight run visits the same ratios as on the VP path of the same betas."""
    torch.manual_seed(0)
    for schedule in (StraightPath(), VESchedule()):
        visited = []

        def denoise(x, t, schedule=schedule, visited=visited):
            visited.append((schedule.sigma(t) / schedule.alpha(t))[0].item())
            return torch.zeros_like(x)

        sampler = make_sampler("ddim", num_steps=5)
        walk(denoise, schedule, sampler, num_images=1)
        scheduler = sampler.make_scheduler(schedule)
        alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps.long()]
        expected = (1 / alpha_bar - 1).sqrt().tolist()
        assert visited == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("path", noise_schedules())
def test_time_at_noise_ratio_inverts_the_path(path):
    schedule = noise_schedules()[path]
    t = schedule.span(50)[1:-1]
    back = schedule.time_at_noise_ratio(schedule.sigma(t) / schedule.alpha(t))
    torch.testing.assert_close(back, t.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "word", "spacing"), [c for c in CELLS if c[2] != "leading"])
def test_no_float64_and_no_python_number_reaches_a_network(path, word, spacing):
    schedule = noise_schedules()[path]
    sampler = make_sampler(word, spacing, num_steps=6)
    if refusal(sampler, schedule) is not None:
        return

    def denoise(x, t):
        assert x.dtype == torch.float32
        assert isinstance(t, torch.Tensor) and t.shape == (len(x),)
        assert t.dtype in (torch.float32, torch.int64)
        time = schedule.network_time(t)
        assert time.dtype == torch.float32 and time.min() >= -1e-3 and time.max() <= 1000.001
        return torch.zeros_like(x)

    assert torch.isfinite(walk(denoise, schedule, sampler, num_images=2)).all()

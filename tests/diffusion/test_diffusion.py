"""The core against diffusers, the tutorial's loop written out, and closed forms."""

import diffusers
import pytest
import torch

from diffusion_lab.diffusion import (
    BlendSampler,
    DiffusersSampler,
    Epsilon,
    Flow,
    Sample,
    StraightPath,
    VPrediction,
    VPSchedule,
    sample_steps,
)
from diffusion_lab.errors import UserError
from diffusion_lab.modules import BasicUNetModule, DDPMModule, DiffusionModule
from diffusion_lab.networks.basic_unet import BasicUNet

BETAS = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
SHAPE = (1, 28, 28)


def batch(n=4):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(n, *SHAPE, generator=generator),
        torch.randn(n, *SHAPE, generator=generator),
    )


def test_corruption_at_zero_at_one_and_between():
    x0, noise = batch(3)
    schedule = StraightPath(noise="uniform")
    amount = torch.tensor([0.0, 1.0, 0.3])
    x_t = schedule.add_noise(x0, noise, amount)
    assert torch.equal(x_t[0], x0[0])
    assert torch.equal(x_t[1], noise[1])
    torch.testing.assert_close(x_t[2], x0[2] * 0.7 + noise[2] * 0.3)


def test_uniform_noise_is_uniform_and_gaussian_is_gaussian():
    x = torch.empty(64, *SHAPE)
    uniform = StraightPath("uniform").draw_noise(x, torch.Generator().manual_seed(0))
    gaussian = StraightPath("gaussian").draw_noise(x, torch.Generator().manual_seed(0))
    assert uniform.min() >= 0 and uniform.max() <= 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    assert gaussian.mean() == pytest.approx(0, abs=0.02)
    assert gaussian.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("betas", BETAS)
def test_vp_noising_is_diffusers_own(betas):
    x0, noise = batch()
    t = torch.tensor([0, 1, 500, 999])
    own = diffusers.DDPMScheduler(beta_schedule=betas).add_noise(x0, noise, t)
    assert torch.equal(VPSchedule(betas).add_noise(x0, noise, t), own)


def test_known_values_of_the_courses_schedules():
    linear = VPSchedule("linear").alphas_cumprod
    assert linear[-1] == pytest.approx(4.04e-5, rel=1e-2)
    assert (linear > 0.5).sum() == pytest.approx(258, abs=2)
    assert (VPSchedule("squaredcos_cap_v2").alphas_cumprod > 0.5).sum() == pytest.approx(495, abs=2)


@pytest.mark.parametrize("prediction", [Sample(), Epsilon(), VPrediction(), Flow()])
@pytest.mark.parametrize("schedule", [StraightPath(), VPSchedule()], ids=["linear", "vp"])
def test_target_and_to_clean_are_inverse(prediction, schedule):
    x0, noise = batch()
    t = schedule.span(6)[1:5]
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    target = prediction.target(x0, noise, alpha, sigma)
    x_t = schedule.add_noise(x0, noise, t)
    torch.testing.assert_close(
        prediction.to_clean(target, x_t, alpha, sigma), x0, atol=1e-5, rtol=1e-5
    )


def test_v_target_is_diffusers_velocity():
    x0, noise = batch()
    t = torch.tensor([0, 10, 500, 999])
    schedule = VPSchedule()
    own = diffusers.DDPMScheduler().get_velocity(x0, noise, t)
    ours = VPrediction().target(x0, noise, schedule.alpha(t), schedule.sigma(t))
    torch.testing.assert_close(ours, own)


def test_objectives_differ_by_their_known_weights():
    """epsilon: (alpha/sigma)^2, v on VP: 1/sigma^2, flow on the straight path: 1/t^2."""
    x0, noise = batch()
    guess = x0 + 0.1 * torch.randn_like(x0)

    def error(prediction, schedule, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        implied = (schedule.add_noise(x0, noise, t) - alpha.view(-1, 1, 1, 1) * guess) / sigma.view(
            -1, 1, 1, 1
        )
        difference = prediction.target(x0, noise, alpha, sigma) - prediction.target(
            guess, implied, alpha, sigma
        )
        return difference.square().flatten(1).mean(1)

    x0_error = (x0 - guess).square().flatten(1).mean(1)
    vp, t = VPSchedule(), torch.tensor([10, 100, 500, 900])
    alpha, sigma = vp.alpha(t), vp.sigma(t)
    torch.testing.assert_close(error(Epsilon(), vp, t), (alpha / sigma) ** 2 * x0_error)
    torch.testing.assert_close(
        error(VPrediction(), vp, t), x0_error / sigma**2, rtol=1e-4, atol=1e-6
    )
    t = torch.tensor([0.1, 0.3, 0.6, 0.9])
    torch.testing.assert_close(error(Flow(), StraightPath(), t), x0_error / t**2)


def test_the_modules_loss_is_the_tutorials_written_out():
    torch.manual_seed(0)
    module, (x0, _) = BasicUNetModule(), batch()
    noise, amount = torch.rand(4, *SHAPE), torch.rand(4)
    a = amount.view(-1, 1, 1, 1)
    by_hand = torch.nn.functional.mse_loss(
        module.network(x0 * (1 - a) + noise * a, torch.zeros(4)), x0
    )
    torch.testing.assert_close(module.losses(x0, noise, amount)[1].mean(), by_hand)


def test_the_ddpm_loss_is_the_one_of_diffusers_training_loop():
    torch.manual_seed(0)
    module, (x0, noise) = DDPMModule(), batch(2)
    t = torch.tensor([3, 700])
    noisy = diffusers.DDPMScheduler(num_train_timesteps=1000).add_noise(x0, noise, t)
    by_hand = torch.nn.functional.mse_loss(module.network.unet(noisy, t).sample, noise)
    torch.testing.assert_close(module.losses(x0, noise, t)[1].mean(), by_hand)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_the_blend_is_the_tutorials_loop(n):
    torch.manual_seed(0)
    net, schedule = BasicUNet(), StraightPath("uniform")
    module = BasicUNetModule(net, schedule)
    steps = list(
        sample_steps(module.denoise, schedule, BlendSampler(n), SHAPE, num_images=4, seed=0)
    )
    x = steps[0].x_t
    assert x.min() >= 0 and x.max() <= 1
    for i in range(n):
        with torch.no_grad():
            prediction = net(x, torch.zeros(4))
        mix = 1 / (n - i)
        torch.testing.assert_close(steps[i].x_t, x, atol=1e-5, rtol=1e-5)
        x = x * (1 - mix) + prediction * mix
    torch.testing.assert_close(steps[-1].x_next, x, atol=1e-5, rtol=1e-5)
    assert torch.equal(steps[-1].x_next, steps[-1].denoised)


def test_the_blend_on_the_straight_path_is_eulers_step():
    x0, noise = batch()
    steps = list(BlendSampler(5).steps(lambda x, t: 0.9 * x0, StraightPath(), noise, generators=[]))
    for step in steps:
        velocity = (step.x_t - step.denoised) / step.t
        torch.testing.assert_close(step.x_next, step.x_t - velocity / 5)


@pytest.mark.parametrize("betas", BETAS)
def test_the_blend_on_a_vp_path_is_ddim(betas):
    schedule, guess = VPSchedule(betas), batch()[0] * 2 - 1
    arguments = {"shape": SHAPE, "num_images": 4, "seed": 3}
    ours = sample_steps(lambda x, t: guess, schedule, BlendSampler(10), **arguments)
    ddim = DiffusersSampler("DDIMScheduler", num_steps=10, eta=0.0, clip_sample=False)
    theirs = sample_steps(lambda x, t: guess, schedule, ddim, **arguments)
    for a, b in zip(ours, theirs, strict=True):
        assert a.t == b.t
        torch.testing.assert_close(a.x_next, b.x_next, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [("DDPMScheduler", {}), ("DDIMScheduler", {"eta": 0.5})],
)
def test_diffusers_own_loop_gives_the_same_images(scheduler, options):
    """The loop of the course around an epsilon network, the same noise and generator."""
    torch.manual_seed(0)
    module = DDPMModule(network=BasicUNet())
    sampler = DiffusersSampler(scheduler, num_steps=25, **options)
    steps = list(
        sample_steps(module.denoise, module.noise_schedule, sampler, SHAPE, num_images=1, seed=5)
    )

    own = getattr(diffusers, scheduler)(timestep_spacing="trailing")
    own.set_timesteps(25)
    from diffusion_lab.diffusion.samplers.base import image_generators

    [generator] = image_generators(5, 0, 1)
    x = torch.randn(SHAPE, generator=generator)[None]
    for t in own.timesteps:
        with torch.no_grad():
            residual = module.network(x, t)
        x = own.step(residual, t, x, generator=generator, **options).prev_sample
    torch.testing.assert_close(steps[-1].x_next, x, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    "sampler",
    [
        BlendSampler(10),
        DiffusersSampler("DDPMScheduler", num_steps=10),
        DiffusersSampler("DDIMScheduler", num_steps=10, eta=0.0),
        DiffusersSampler("DDIMScheduler", num_steps=10, eta=1.0),
        DiffusersSampler("DPMSolverMultistepScheduler", num_steps=10, solver_order=2),
    ],
    ids=["blend", "ddpm", "ddim", "ddim_eta1", "dpm_solver"],
)
def test_a_perfect_denoiser_is_followed_home(sampler):
    x0 = batch()[0] * 2 - 1
    *_, last = sample_steps(lambda x, t: x0, VPSchedule(), sampler, SHAPE, num_images=4, seed=0)
    # 2M ends one step short of t = 0 in its own parametrisation, hence not to float32 rounding
    torch.testing.assert_close(last.x_next, x0, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["blend", "ddpm"])
def test_image_k_does_not_depend_on_the_batch(name):
    torch.manual_seed(0)
    module = DDPMModule(network=BasicUNet())
    sampler = BlendSampler(5) if name == "blend" else DiffusersSampler("DDPMScheduler", 5)

    def draw(first, count):
        *_, last = sample_steps(
            module.denoise,
            module.noise_schedule,
            sampler,
            SHAPE,
            num_images=count,
            seed=7,
            first=first,
        )
        return last.x_next

    whole = draw(0, 6)
    parts = torch.cat([draw(0, 1), draw(1, 2), draw(3, 3)])
    # the same noise to the bit; a network may round differently in a batch of another size
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(whole[0], whole[1])


def test_seeds_do_not_share_images():
    schedule = StraightPath()
    draws = [
        next(sample_steps(lambda x, t: x, schedule, BlendSampler(1), SHAPE, num_images=2, seed=s))
        for s in (0, 1)
    ]
    assert not torch.equal(draws[0].x_t[1], draws[1].x_t[0])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: StraightPath(noise="pink"), "gaussian"),
        (lambda: VPSchedule("quadratic"), "sigmoid"),
        (lambda: VPSchedule(beta_start=0.5, beta_end=0.1), "beta_start"),
        (lambda: VPSchedule(num_train_timesteps=1), "at least 2"),
        (lambda: BlendSampler(0), "at least 1"),
        (lambda: DiffusersSampler("Nothing", 5), "DDIMScheduler"),
        (lambda: DiffusersSampler("DDIMScheduler", 5, solver_order=2), "solver_order"),
        (lambda: DiffusersSampler("DDPMScheduler", 5, eta=1.0), "eta"),
        (lambda: DiffusersSampler("DDIMScheduler", 5, "random"), "trailing"),
        (lambda: DiffusersSampler("DDPMScheduler", 5).check(StraightPath("uniform")), "blend"),
        (lambda: DiffusersSampler("DDIMScheduler", 2000).check(VPSchedule()), "1000 timesteps"),
        (lambda: BlendSampler(2000).check(VPSchedule()), "1000 timesteps"),
        (lambda: DDPMModule(noise_schedule=StraightPath()), "noise_schedule=linear"),
        (lambda: DiffusionModule(BasicUNet(), StraightPath(), Epsilon()), "prediction=sample"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(make, word):
    with pytest.raises(UserError) as error:
        make()
    assert word in str(error.value) and "\n" not in str(error.value)

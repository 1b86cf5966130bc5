"""Predictions, weightings, time sampling and pairing: identities, diffusers, smalldiffusion."""

import diffusers
import numpy as np
import pytest
import torch
from scipy import stats

from diffusion_lab.config.groups import noise_schedules, predictions, refusal
from diffusion_lab.diffusion import (
    EDM,
    EDMWeighting,
    Epsilon,
    Flow,
    LearnedWeighting,
    LogitNormalTime,
    LogNormalTime,
    MinSNR,
    NoiseEndTime,
    Sample,
    Score,
    SigmaPower,
    StraightPath,
    UniformTime,
    UniformWeighting,
    VESchedule,
    VPrediction,
    VPSchedule,
)
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.basic_unet import BasicUNet

PAIRS = [
    (path, name)
    for path, schedule in noise_schedules().items()
    for name, prediction in predictions().items()
    if refusal(prediction, schedule) is None
]


def batch(n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 8, 8, generator=generator) * 2 - 1, torch.randn(
        n, 1, 8, 8, generator=generator
    )


def inner(schedule, n=6):
    """Times in the middle of a path, where float32 divides without loss."""
    t = schedule.span(4 * n)
    return t[n : 2 * n]


@pytest.mark.parametrize(("path", "name"), PAIRS)
def test_target_and_to_clean_are_inverse(path, name):
    schedule, prediction = noise_schedules()[path], predictions()[name]
    x0, noise = batch()
    t = inner(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    target = prediction.target(x0, noise, alpha, sigma)
    back = prediction.to_clean(target, schedule.add_noise(x0, noise, t), alpha, sigma)
    torch.testing.assert_close(back, x0, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name"), PAIRS)
def test_x0_weight_is_how_errors_scale(path, name):
    """Recomputed in float64: move x0_hat, see how far the target moves."""
    schedule, prediction = noise_schedules()[path], predictions()[name]
    x0, noise = (tensor.double() for tensor in batch())
    t = inner(schedule)
    alpha, sigma = schedule.alpha(t).double(), schedule.sigma(t).double()
    a, s = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    guess = x0 + 0.1
    noise_hat = (a * x0 + s * noise - a * guess) / s
    moved = prediction.target(guess, noise_hat, alpha, sigma) - prediction.target(
        x0, noise, alpha, sigma
    )
    ratio = moved.square().flatten(1).mean(1) / 0.01
    torch.testing.assert_close(prediction.x0_weight(alpha, sigma), ratio, rtol=1e-6, atol=1e-9)


def test_what_is_undefined_at_pure_noise_is_refused():
    refused = {
        (path, name)
        for path, schedule in noise_schedules().items()
        for name, prediction in predictions().items()
        if refusal(prediction, schedule)
    }
    at_noise = ("blend_gaussian", "blend_uniform", "zero_snr")
    assert refused == {(path, name) for path in at_noise for name in ("epsilon", "score")}


def test_edm_is_diffusers_preconditioning():
    schedule, edm = VESchedule(), EDM()
    own = diffusers.EDMEulerScheduler()
    x, output = batch(1)
    for sigma in (0.002, 0.5, 3.0, 80.0):
        t = torch.tensor([sigma])
        alpha = schedule.alpha(t)
        expected = own.precondition_outputs(x, output, t)
        torch.testing.assert_close(edm.to_clean(output, x, alpha, t), expected)
        scaled = own.precondition_inputs(x, t)
        torch.testing.assert_close(x * schedule.input_scale(t), scaled)
        # c_noise = log(sigma) / 4, up to where the embedding wants it
    c_noise = torch.tensor([0.01, 0.1, 1.0, 10.0]).log() / 4
    time = schedule.network_time(torch.tensor([0.01, 0.1, 1.0, 10.0]))
    slope = (time[1:] - time[:-1]) / (c_noise[1:] - c_noise[:-1])
    torch.testing.assert_close(slope, slope[:1].expand(3))


def test_edm_with_unit_data_on_a_vp_path_is_minus_v():
    schedule, (x0, noise) = VPSchedule(), batch()
    t = inner(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    edm = EDM(sigma_data=1.0).target(x0, noise, alpha, sigma)
    torch.testing.assert_close(edm, -VPrediction().target(x0, noise, alpha, sigma))


def test_min_snr_has_the_right_formula_for_each_prediction():
    schedule = VPSchedule()
    t = torch.tensor([5, 200, 500, 999])
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    snr = diffusers.training_utils.compute_snr(diffusers.DDPMScheduler(), t)
    capped = snr.clamp(max=5.0)
    weigh = MinSNR(5.0).weight
    torch.testing.assert_close(weigh(alpha, sigma, Sample()), capped, rtol=1e-4, atol=0)
    torch.testing.assert_close(weigh(alpha, sigma, Epsilon()), capped / snr, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        weigh(alpha, sigma, VPrediction()), capped / (snr + 1), rtol=1e-4, atol=0
    )


def test_edm_weight_goes_by_the_ratio_on_every_path():
    vp, t = VPSchedule(), torch.tensor([5, 300, 900])
    alpha, sigma = vp.alpha(t), vp.sigma(t)
    ratio = sigma / alpha
    on_x0 = EDMWeighting().weight(alpha, sigma, Sample())
    torch.testing.assert_close(on_x0, (ratio**2 + 0.25) / (ratio * 0.5) ** 2, rtol=1e-4, atol=0)


def test_edm_weight_is_one_for_the_edm_prediction():
    t = torch.tensor([0.002, 0.5, 80.0])
    weight = EDMWeighting().weight(torch.ones(3), t, EDM())
    torch.testing.assert_close(weight, torch.ones(3))
    plain = EDMWeighting().weight(torch.ones(3), t, Sample())
    torch.testing.assert_close(plain, (t**2 + 0.25) / (t * 0.5) ** 2)


def test_score_times_sigma_squared_is_epsilon():
    """Song & Ermon's weight makes the score loss the epsilon loss, and times_sigma the same."""
    sigma, alpha, (x0, noise) = torch.tensor([0.1, 1.0, 7.0]), torch.ones(3), batch(3)
    guess = noise + 0.3
    errors = {}
    for name, prediction, weigh in (
        ("epsilon", Epsilon(), UniformWeighting()),
        ("score", Score(), SigmaPower(2.0)),
        ("times_sigma", Score(times_sigma=True), UniformWeighting()),
    ):
        error = prediction.target(x0, guess, alpha, sigma) - prediction.target(
            x0, noise, alpha, sigma
        )
        errors[name] = weigh(error.square().flatten(1).mean(1), alpha, sigma, prediction)
    torch.testing.assert_close(errors["score"], errors["epsilon"])
    torch.testing.assert_close(errors["times_sigma"], errors["epsilon"])


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name"), PAIRS)
@pytest.mark.parametrize("weighting", [MinSNR(), EDMWeighting(), LearnedWeighting()])
def test_weights_are_finite_at_both_ends(path, name, weighting):
    schedule, prediction = noise_schedules()[path], predictions()[name]
    t = schedule.at(torch.tensor([0.0, 0.5, 1.0]))
    losses = weighting(torch.ones(3), schedule.alpha(t), schedule.sigma(t), prediction)
    assert torch.isfinite(losses).all() and (losses >= 0).all()


def test_the_learned_weight_finds_the_error_of_every_level():
    """u = log E[error] is the minimum of E[error] / exp(u) + u."""
    torch.manual_seed(0)
    weighting, schedule = LearnedWeighting(), StraightPath()
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.02)
    for _ in range(600):
        t = torch.rand(256) * 0.9 + 0.05
        expected = torch.where(t < 0.5, 4.0, 0.25)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        loss = weighting(expected, alpha, sigma, Flow()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    t = torch.tensor([0.2, 0.8])
    u = weighting.uncertainty(schedule.alpha(t), schedule.sigma(t)).detach()
    assert u.exp()[0] == pytest.approx(4.0, rel=0.4)
    assert u.exp()[1] == pytest.approx(0.25, rel=0.4)


def test_the_learned_weight_is_trained_and_does_not_change_the_validation_error():
    module = DiffusionModule(BasicUNet(), StraightPath(), Flow(), weighting=LearnedWeighting())
    names = [name for name, _ in module.named_parameters()]
    assert "weighting.out.weight" in names
    x0, noise = torch.rand(2, 1, 28, 28), torch.randn(2, 1, 28, 28)
    t = torch.tensor([0.3, 0.6])
    plain = DiffusionModule(module.network, StraightPath(), Flow())
    assert torch.equal(module.losses(x0, noise, t)[0], plain.losses(x0, noise, t)[1])


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(
    ("sampling", "schedule", "distribution"),
    [
        (UniformTime, StraightPath(), stats.uniform()),
        (LogitNormalTime, StraightPath(), None),
        (
            LogNormalTime,
            VESchedule(sigma_min=1e-6, sigma_max=1e6),
            stats.lognorm(1.2, scale=np.exp(-1.2)),
        ),
        (UniformTime, VESchedule(0.01, 50, spacing="geometric"), stats.loguniform(0.01, 50)),
    ],
)
def test_times_have_their_distribution(sampling, schedule, distribution, stratified):
    generator = torch.Generator().manual_seed(0)
    t = sampling(stratified=stratified).draw(4000, schedule, generator=generator).double().numpy()
    if distribution is None:
        t, distribution = np.log(t / (1 - t)), stats.norm()
    assert stats.kstest(t, distribution.cdf).pvalue > 0.01


def test_every_timestep_of_a_vp_path_is_drawn_as_often():
    t = UniformTime().draw(200_000, VPSchedule(), generator=torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    counts = torch.bincount(t, minlength=1000)
    assert len(counts) == 1000
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.slow
def test_stratified_times_lower_the_variance_of_the_batch_loss():
    torch.manual_seed(0)
    net, schedule = BasicUNet(), StraightPath("uniform")
    module = DiffusionModule(net, schedule, Sample())
    x0 = torch.rand(16, 1, 28, 28)

    def spread(sampling):
        losses = []
        with torch.no_grad():
            for seed in range(60):
                generator = torch.Generator().manual_seed(seed)
                noise = schedule.draw_noise(x0, generator)
                t = sampling.draw(16, schedule, generator=generator)
                # a loss that depends on the noise level, as every diffusion loss does
                losses.append((module.losses(x0, noise, t)[0] * (1 + 4 * t)).mean())
        return torch.stack(losses).std()

    assert spread(UniformTime(stratified=True)) < 0.5 * spread(UniformTime())


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampling", [UniformTime(), LogitNormalTime(), LogNormalTime(0, 1)])
def test_times_are_as_many_whatever_the_precision(sampling, narrow):
    """16-true precision makes the narrow type torch's default; bfloat16 has 128 from 0.5 to 1."""
    before = torch.get_default_dtype()
    schedule, generator = VPSchedule(), torch.Generator()
    wide = sampling.draw(20_000, schedule, generator=generator.manual_seed(0))
    torch.set_default_dtype(narrow)
    try:
        drawn = sampling.draw(20_000, schedule, generator=generator.manual_seed(0))
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(drawn, wide)


def test_the_learned_weight_works_in_16_true():
    weighting = LearnedWeighting().bfloat16()
    sigma = torch.rand(6)
    found = weighting(torch.ones(6), 1 - sigma, sigma, Flow())
    assert found.dtype == torch.float32 and found.isfinite().all()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: NoiseEndTime(share=1.0), "from 0 to below 1"),
        (lambda: VESchedule(sigma_min=5, sigma_max=1), "sigma_min < sigma_max"),
        (lambda: VESchedule(spacing="cubic"), "karras"),
        (lambda: VESchedule(sigma_data=0), "above 0"),
        (lambda: MinSNR(gamma=0), "above 0"),
        (lambda: EDM(sigma_data=-1), "above 0"),
        (lambda: EDMWeighting(sigma_data=0), "above 0"),
        (lambda: LogitNormalTime(std=0), "above 0"),
    ],
)
def test_settings_out_of_order_are_refused(make, word):
    with pytest.raises(UserError) as error:
        make()
    assert word in str(error.value) and "\n" not in str(error.value)

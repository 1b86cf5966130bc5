"""Likelihoods against densities in closed form, and scripts/likelihood.py."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from diffusion_lab import load_run
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import LinearSchedule, VESchedule, VPSchedule
from diffusion_lab.diffusion.likelihood import check_start, log_density, rademacher
from diffusion_lab.diffusion.oracle import GaussianOracle, ImagesOracle
from diffusion_lab.diffusion.variational_bound import _log_bin, variational_bound
from diffusion_lab.errors import UserError
from diffusion_lab.run.bits_per_dim import Images, bits_by_bound, bits_by_ode, dequantise
from diffusion_lab.run.load import Run
from tests.conftest import last_line
from tests.test_bad_input import assert_refused

PATHS = {
    "linear": LinearSchedule(),
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
    [LinearSchedule(), VPSchedule("squaredcos_cap_v2"), VESchedule(sigma_max=5000.0)],
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
    schedule = LinearSchedule()
    denoise = ImagesOracle(schedule, torch.rand(3, 1, 2, 2, generator=generators(1)[0]).double())
    x = torch.rand(4, 1, 2, 2, generator=generators(1, 1)[0]).double()
    settings = {"start_ratio": 0.4, "tolerance": 1e-2}
    exact = log_density(denoise, schedule, x, all_signs(x.shape), **settings).log_density.mean(0)
    probes = rademacher((60, 1, 2, 2), generators(4, 2))
    found = log_density(denoise, schedule, x, probes, **settings).log_density
    assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / math.sqrt(60)).all()
    assert (found.std(0) > 1e-3).all()


def test_an_image_does_not_depend_on_its_batch():
    schedule = LinearSchedule()
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
            LinearSchedule(),
            torch.zeros(2, 1, 2, 2),
            torch.ones(1, 2, 1, 2, 2),
            start_ratio=0.01,
            tolerance=1e-3,
        )


@pytest.mark.parametrize(
    ("schedule", "ratio", "words"),
    [
        (LinearSchedule("uniform"), 0.01, "uniform.*Gaussian"),
        (VPSchedule(), 0.009, "start_ratio=0.009: .* from 0.01 "),
        (LinearSchedule(), 0.0, "start_ratio=0"),
        (LinearSchedule(), math.nan, "start_ratio=nan"),
        (VESchedule(), 80.0, "below 80"),
    ],
)
def test_levels_without_a_density_are_refused(schedule, ratio, words):
    with pytest.raises(UserError, match=words):
        check_start(schedule, ratio)


def chain_nats(schedule, x, variance):
    """-log P of the reverse chain of a Gaussian oracle, exactly: all its steps are affine."""
    alpha_bar = schedule.alphas_cumprod.double().numpy()
    mean, var = 0.0, 1.0
    for t in range(len(alpha_bar) - 1, -1, -1):
        bar, before = alpha_bar[t], alpha_bar[t - 1] if t else 1.0
        gain = math.sqrt(bar) * STD**2 / (bar * STD**2 + 1 - bar)
        beta = 1 - bar / before
        of_x0 = math.sqrt(before) * beta / (1 - bar)
        of_x = math.sqrt(bar / before) * (1 - before) / (1 - bar)
        slope = of_x0 * gain + of_x
        mean = slope * mean + of_x0 * MEAN * (1 - gain * math.sqrt(bar))
        small = beta * (1 - before) / (1 - bar)
        if t == 0:
            second = alpha_bar[1]
            small = (1 - second / bar) * (1 - bar) / (1 - second)
        var = slope**2 * var + (beta if variance == "fixed_large" and t else small)
    edges = np.concatenate([[-np.inf], np.linspace(-1, 1, 256)[:-1] + 1 / 255, [np.inf]])
    levels = np.round((x.numpy() + 1) / 2 * 255).astype(int)
    bins = np.diff(stats.norm(mean, math.sqrt(var)).cdf(edges))
    return -np.log(bins[levels]).reshape(len(x), -1).sum(1)


def chain_of_ratios(ratios):
    """A VP path with these sigma / alpha."""
    alpha_bar = 1 / (1 + np.asarray(ratios) ** 2)
    betas = 1 - alpha_bar / np.concatenate([[1], alpha_bar[:-1]])
    return VPSchedule(num_train_timesteps=len(ratios), trained_betas=betas.tolist())


@pytest.mark.parametrize(("variance", "closest"), [("fixed_small", 1.0), ("fixed_large", 0.05)])
def test_the_bound_is_above_the_chain_of_a_gaussian_and_closer_with_more_steps(variance, closest):
    """beta_t are the right variances where the data are wide: Ho et al. 2020, section 3.2."""
    value_range = ValueRange("minus_one_one")
    values = MEAN + STD * torch.randn(64, 1, 8, 8, generator=generators(1)[0])
    # without black and white, whose bins have no outer edge: the chain fills them, q does not
    x = value_range.encode(value_range.decode(values.clamp(-0.9, 0.9))).double()
    gaps = []
    for steps in (5, 15, 100):
        # levels much coarser than those of gray, so that they hardly matter
        schedule = chain_of_ratios([0.03, *np.geomspace(0.06, 50, steps - 1)])
        bound = variational_bound(
            GaussianOracle(schedule, MEAN, STD),
            schedule,
            x,
            generators(len(x)),
            value_range=(-1, 1),
            variance=variance,
        )
        gaps.append((bound.total.mean().item() - chain_nats(schedule, x, variance).mean()) / 64)
    assert gaps[0] > gaps[1] > 1.5 * gaps[2] > 0  # nats a dimension
    assert gaps[2] < closest


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_terms_of_the_bound_are_kl_divergences(variance):
    """Each of them again, with Bayes' rule, torch.distributions and quadrature for the mean."""
    schedule = VPSchedule(num_train_timesteps=30, beta_start=1e-3, beta_end=0.3)
    image = torch.tensor([0, 1, 200, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    x0 = ValueRange("minus_one_one").encode(image).double()
    copies = 3000
    bound = variational_bound(
        GaussianOracle(schedule, MEAN, STD),
        schedule,
        x0.expand(copies, -1, -1, -1),
        generators(copies),
        value_range=(-1, 1),
        variance=variance,
    )
    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    bars = schedule.alphas_cumprod.double()
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(101))
    nodes, weights = nodes[nodes.abs() < 6], weights[nodes.abs() < 6]
    weights = weights / weights.sum()

    def mean_of(t):
        """x_t and the denoised at all nodes, (101, 4)."""
        alpha, sigma = bars[t].sqrt(), (1 - bars[t]).sqrt()
        x_t = alpha * x0.flatten() + sigma * nodes[:, None]
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return x_t, MEAN + gain * (x_t - alpha * MEAN)

    steps = torch.zeros(()).double()
    smallest = None
    for t in range(1, 30):
        before, keep = bars[t - 1], (bars[t] / bars[t - 1]).sqrt()
        beta = 1 - keep**2
        q_var = 1 / (1 / (1 - before) + keep**2 / beta)
        smallest = q_var if smallest is None else smallest
        x_t, denoised = mean_of(t)

        def posterior(x0, x_t=x_t, before=before, keep=keep, beta=beta, q_var=q_var):
            return q_var * (before.sqrt() * x0 / (1 - before) + keep * x_t / beta)

        p_var = q_var if variance == "fixed_small" else beta
        divergence = kl(
            normal(posterior(x0.flatten()), q_var.sqrt()),
            normal(posterior(denoised), p_var.sqrt()),
        )
        steps += (weights[:, None] * divergence).sum()
    prior = kl(normal(bars[-1].sqrt() * x0, (1 - bars[-1]).sqrt()), normal(0.0, 1.0)).sum()
    cdf = stats.norm(mean_of(0)[1].numpy(), smallest.sqrt().item()).cdf
    lower = np.where(image.flatten() == 0, -np.inf, x0.flatten() - 1 / 255)
    upper = np.where(image.flatten() == 255, np.inf, x0.flatten() + 1 / 255)
    decoder = -(weights.numpy()[:, None] * np.log(cdf(upper) - cdf(lower))).sum()
    assert bound.prior.unique().item() == pytest.approx(prior.item(), rel=1e-5)
    for found, expected in ((bound.steps, steps.item()), (bound.decoder, decoder)):
        error = found.std().item() / math.sqrt(copies)
        assert error < 0.02 * expected
        assert abs(found.mean().item() - expected) < 4 * error


def test_some_of_the_terms_estimate_all_of_them():
    schedule = VPSchedule(num_train_timesteps=200, beta_end=0.1)
    image = torch.rand(1, 1, 3, 3, generator=generators(1)[0]).double() * 2 - 1

    def bound(n, count):
        return variational_bound(
            lambda x_t, t: torch.zeros_like(x_t),  # so a term depends on its timestep alone
            schedule,
            image.expand(n, -1, -1, -1),
            generators(n),
            value_range=(-1, 1),
            num_timesteps=count,
        )

    exact = bound(1, None).steps
    torch.testing.assert_close(bound(1, 199).steps, exact)
    some = bound(4000, 3).steps
    error = some.std() / math.sqrt(4000)
    assert error / exact < 0.02
    assert (some.mean() - exact).abs() < 4 * error
    assert bound(50, 20).steps.std() < some.std() / 3  # evenly spaced, so better than 1 / sqrt(n)


def test_the_decoder_is_a_distribution_over_the_levels():
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, std in ((0.1, 0.01), (-1.2, 0.1), (0.999, 1.0)):
        logs = _log_bin(x, *torch.tensor([mean, std], dtype=torch.float64), (-1.0, 1.0))
        assert logs.exp().sum().item() == pytest.approx(1, abs=1e-12)
        assert logs.isfinite().all()  # also 40 deviations away
        k = int((mean + 1) / 2 * 255) if abs(mean) < 1 else 0
        upper = np.inf if k == 255 else x[k].item() + 1 / 255
        lower = -np.inf if k == 0 else x[k].item() - 1 / 255
        expected = math.log(np.diff(stats.norm(mean, std).cdf([lower, upper]))[0])
        assert logs[k].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["zero_one", "minus_one_one"])
def test_dequantised_pixels_are_decoded_to_themselves_and_their_width_is_counted(name):
    value_range = ValueRange(name)
    pixels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    for share in (0.001, 0.5, 0.999):
        assert (
            value_range.decode(dequantise(pixels, torch.tensor(share), value_range)) == pixels
        ).all()

    schedule = LinearSchedule()
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


def test_a_run_is_measured_from_the_command_line(command, trained):
    out = last_line(
        command(
            "likelihood",
            f"run={trained['ddpm']}",
            "num_images=3",
            "batch_size=2",
            "num_timesteps=4",
            "tolerance=1e-2",
            "probes=2",
            "accelerator=cpu",
            "out=here",
        )
    )
    record = json.loads((out / "likelihood.json").read_text())
    assert record["num_images"] == 3 and record["split"] == "test" and record["labels"] is None
    ode, bound = record["methods"]["ode"], record["methods"]["bound"]
    run = load_run(trained["ddpm"])
    assert ode["start_ratio"] == pytest.approx(run.module.noise_schedule.min_ratio)
    assert (ode["probes"], ode["draws"], ode["draw_std"]) == (2, 1, None)
    assert ode["probe_std"] > 0 and ode["num_calls"]["min"] >= 13
    assert bound["num_timesteps"] == 4 and bound["of_timesteps"] == 999
    assert sum(bound["terms"].values()) == pytest.approx(bound["bits_per_dim"])
    for found in (ode, bound):
        assert found["bits_per_dim"] == pytest.approx(np.mean(found["per_image"]))


def test_a_run_with_classes_is_measured_with_and_without_them(typed, runs):
    small = (
        f"run={runs['conditional']}",
        "num_images=2",
        "tolerance=1e-2",
        "accelerator=cpu",
        "split=val",
    )
    found = {}
    for labels in ("none", "own"):
        code, out, err = typed("likelihood", *small, f"labels={labels}")
        assert code == 0, err
        folder = Path(out.split()[-1])
        assert folder.parent == runs["conditional"] / "likelihood"
        record = json.loads((folder / "likelihood.json").read_text())
        assert record["labels"] == labels and list(record["methods"]) == ["ode"]
        found[labels] = record["methods"]["ode"]
        assert f"{found[labels]['bits_per_dim']:.4f}" in out and "labels=" + labels in out
        # uniform dequantisation's standard deviation, in [-1, 1]
        assert found[labels]["start_ratio"] == pytest.approx(2 / 255 / math.sqrt(12))
    assert found["none"]["per_image"] != found["own"]["per_image"]


def test_the_bound_clips_what_the_network_sees_and_uses_the_runs_labels():
    schedule = VPSchedule(num_train_timesteps=10, beta_end=0.5)
    seen = []

    def denoise(x_t, t, labels=None):
        seen.append(labels)
        return torch.full_like(x_t, 100.0)

    module = SimpleNamespace(denoise=denoise, noise_schedule=schedule, device="cpu")
    run = Run(Path(), {}, module, ValueRange("minus_one_one"), (1, 2, 2), "raw")
    pixels = torch.full((2, 1, 2, 2), 255, dtype=torch.uint8)
    images = Images([0, 1], pixels, torch.tensor([3, 4]))
    found = bits_by_bound(
        run,
        images,
        lambda share: None,
        variance="fixed_small",
        num_timesteps=None,
        seed=0,
        batch_size=1,
    )
    assert found["terms"]["steps"] == pytest.approx(0, abs=1e-9)  # clipped, it is right
    assert {tuple(labels.tolist()) for labels in seen} == {(3,), (4,)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run="], ["run= is missing"]),
        (["run=nowhere"], ["run=nowhere is no folder"]),
        (["run={basic_unet}"], ["uniform", "Gaussian"]),
        (["run={conditional}", "method=bound"], ["method=ode", "model=ddpm"]),
        (["run={ddpm}", "method=exact"], ["method=exact", "bound"]),
        (["run={ddpm}", "tolerance=0"], ["tolerance=0", "1e-3"]),
        (["run={ddpm}", "tolerance=-1"], ["tolerance=-1"]),
        (["run={ddpm}", "tolerance=nan"], ["tolerance=nan"]),
        (["run={ddpm}", "start_ratio=0.001"], ["start_ratio=0.001", "from 0.01"]),
        (["run={ddpm}", "split=exam"], ["exam", "train, val, test"]),
        (["run={ddpm}", "num_images=5000"], ["num_images=5000", "1000"]),
        (["run={ddpm}", "num_images=0"], ["num_images=0", "at least 1"]),
        (["run={ddpm}", "probes=0"], ["probes=0"]),
        (["run={ddpm}", "draws=0"], ["draws=0"]),
        (["run={ddpm}", "seed=-1"], ["seed=-1"]),
        (["run={ddpm}", "variance=learned"], ["variance=learned", "fixed_small"]),
        (["run={ddpm}", "num_timesteps=1000"], ["num_timesteps=1000", "1 to 999"]),
        (["run={ddpm}", "labels=3"], ["labels=3", "own"]),
        (["run={ddpm}", "labels=own"], ["labels=own", "no classes"]),
        (["run={ddpm}", "+scale=1"], ["scale"]),
        (["run={ddpm}", "weights=posthoc"], ["weights=posthoc"]),
    ],
)
def test_mistakes_are_refused_in_one_line(typed, trained, runs, tmp_path, arguments, words):
    folders = trained | runs
    given = [argument.format(**folders) for argument in arguments]
    assert_refused(typed("likelihood", *given, "out=never", "accelerator=cpu"), *words)
    assert not (tmp_path / "never").exists()

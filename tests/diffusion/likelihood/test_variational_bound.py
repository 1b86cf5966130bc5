"""The variational bound against its definition and the chain in closed form."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from diffusion_lab.commands.likelihood.bits_per_dim import Images, bits_by_bound
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import VPSchedule
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle
from diffusion_lab.diffusion.likelihood.variational_bound import _log_bin, variational_bound
from diffusion_lab.runs.load import Run

MEAN, STD = 0.3, 0.5


def generators(n, seed=0):
    return [torch.Generator().manual_seed(1000 * seed + k) for k in range(n)]


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

"""The variational bound of ancestral sampling along a chain of betas: Ho et al. 2020, eq. 5.

Images are (B, C, H, W) in the network's range. The bound is in nats.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lab.diffusion.likelihood.ode import Progress
from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import Denoise, fresh_noise
from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.errors import UserError, unknown_name

VARIANCES = ("fixed_small", "fixed_large")


class Bound(NamedTuple):
    """The terms of the variational bound on -log P(image), float64 (B,) nats each."""

    prior: Tensor
    """L_T, the KL divergence of the noised image at the last timestep from pure noise."""
    steps: Tensor
    """The sum L_1 + .. + L_{T-1} of the KL divergences of the denoising steps."""
    decoder: Tensor
    """L_0, the negative log-likelihood of the pixels in the last denoising step."""

    @property
    def total(self) -> Tensor:
        """The sum of all terms, the bound (B,)."""
        return self.prior + self.steps + self.decoder


def variational_bound(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    images: Tensor,
    generators: Sequence[torch.Generator],
    *,
    value_range: tuple[float, float],
    variance: str = "fixed_small",
    num_timesteps: int | None = None,
    progress: Progress | None = None,
) -> Bound:
    """Compute the variational bound on -log P(image) for a VP model and pixels of 256 levels.

    Ho et al. 2020 (arXiv 2006.11239), eq. 5: L_T + L_1 + .. + L_{T-1} + L_0, with one sample of x_t
    per term, the means of eq. 7, and step variances beta_t ("fixed_large") or beta~_t
    ("fixed_small"). L_0 is the discretised Gaussian of eq. 13 with variance beta~_2, because
    beta~_1 is 0, as in the code of that paper. The pixels of `images` take 256 evenly spaced levels
    over value_range.

    With num_timesteps below T - 1, the sum L_1 + .. + L_{T-1} is estimated without bias from
    num_timesteps of its terms. These terms are drawn by systematic sampling (evenly spaced
    quantiles with one random offset) from a distribution over t that is half uniform and half
    proportional to log(sigma_t^2 / sigma_{t-1}^2), which is large where the terms are large. The
    noise and the offset of an image come from the image's own generator. Raises UserError for a
    noise schedule without betas, an unknown `variance`, or num_timesteps out of range.
    """
    path = check_bound(noise_schedule, variance, num_timesteps)
    alpha_bar = path.alphas_cumprod.cpu().double()
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    betas = 1 - alpha_bar / before
    posterior = betas * (1 - before) / (1 - alpha_bar)  # beta~, eq. 7
    of_x0 = before.sqrt() * betas / (1 - alpha_bar)  # coefficient of x0 in the mean of eq. 7
    chosen = posterior if variance == "fixed_small" else betas
    terms = len(alpha_bar) - 1
    count = num_timesteps or terms
    share = alpha_bar.new_full((terms,), 1 / terms)
    if count < terms:
        spread = (betas / posterior)[1:].log()
        share = (share + spread / spread.sum()) / 2
    up_to = share.cumsum(0)

    @torch.no_grad()
    def see(t: Tensor) -> Tensor:
        x_t = noise_schedule.add_noise(images, fresh_noise(images, generators), t)
        return denoise(x_t, t)

    def done(part: float) -> None:
        if progress is not None:
            progress(part)

    beginning = torch.stack([torch.rand((), generator=g, device=g.device) for g in generators])
    steps = alpha_bar.new_zeros(len(images))
    for k in range(count):
        if count < terms:
            place = torch.searchsorted(up_to, (k + beginning.cpu().double()) / count)
            t = place.clamp(max=terms - 1) + 1
        else:
            t = torch.full((len(images),), k + 1)
        squared = (images - see(t.to(images.device))).square().flatten(1).sum(1).cpu().double()
        ratio = posterior[t] / chosen[t]
        per_pixel = 0.5 * (ratio - 1 - ratio.log())
        kl = images[0].numel() * per_pixel + 0.5 * of_x0[t] ** 2 / chosen[t] * squared
        steps += kl / (share[t - 1] * count)
        done((k + 1) / (count + 1))

    x0 = images.cpu().double()
    denoised = see(torch.zeros(len(images), dtype=torch.long, device=images.device)).cpu().double()
    decoder = -_log_bin(x0, denoised, posterior[1].sqrt(), value_range)
    left, noise = alpha_bar[-1], 1 - alpha_bar[-1]
    prior = 0.5 * (left * x0.square() + noise - 1 - noise.log())
    done(1.0)
    return Bound(prior.flatten(1).sum(1), steps, decoder.flatten(1).sum(1))


def check_bound(
    noise_schedule: NoiseSchedule, variance: str, num_timesteps: int | None
) -> VPSchedule:
    """Return the noise schedule, after checking that the bound can be computed with it.

    Raises UserError for a noise schedule that is not a VPSchedule, an unknown `variance`, or
    num_timesteps out of range.
    """
    if not isinstance(noise_schedule, VPSchedule):
        raise UserError(
            "the variational bound needs a noise schedule made from betas, but this run has a "
            f"{type(noise_schedule).__name__}: use method=ode, or another run=, for example one of "
            "model=ddpm"
        )
    if variance not in VARIANCES:
        raise UserError(unknown_name("variance", variance, VARIANCES))
    terms = noise_schedule.num_train_timesteps - 1
    if num_timesteps is not None and not 1 <= num_timesteps <= terms:
        raise UserError(
            f"num_timesteps={num_timesteps}: expected a number from 1 to {terms}, the number of "
            "terms of this run's bound, or null for all terms"
        )
    return noise_schedule


def _log_bin(x: Tensor, mean: Tensor, std: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Return the log probability of the bin around x, one of 256 levels, under N(mean, std^2).

    The lowest and the highest bin extend to infinity.
    """
    low, high = value_range
    half = (high - low) / 255 / 2
    lower = torch.where(x < low + half, -torch.inf, (x - half - mean) / std)
    upper = torch.where(x > high - half, torch.inf, (x + half - mean) / std)
    # mirrored into the left tail, where log_ndtr keeps its precision
    mirrored = lower + upper > 0
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_upper = torch.special.log_ndtr(upper)
    return log_upper + torch.log1p(-(torch.special.log_ndtr(lower) - log_upper).exp())

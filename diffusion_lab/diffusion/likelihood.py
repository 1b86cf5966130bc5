"""How likely images are under a trained path: exactly by the deterministic one, or by a bound.

Images are (B, C, H, W) in the network's range, d = C H W, log densities in nats. The denoiser is
all that is asked: (x_t (B, C, H, W), t (B,)) -> E[x0 | x_t].
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy.integrate import RK45
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, per_image
from diffusion_lab.diffusion.samplers.base import Denoise, fresh_noise
from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.errors import UserError

VARIANCES = ("fixed_small", "fixed_large")
SMALLEST_STEP = 1e-9  # of an angle; float32 networks are not smooth on this scale

Progress = Callable[[float], None]
"""Called now and then with the share of the work that is done, from 0 to 1."""


class Density(NamedTuple):
    """What the probability-flow ODE says of B images."""

    log_density: Tensor
    """float64 (P, B), nats of the image at the start level x_t / alpha, for each probe."""
    num_calls: Tensor
    """(B,) how often the denoiser was asked until this image was done."""


class Bound(NamedTuple):
    """The terms of the variational bound on -log P(image), float64 (B,) nats each."""

    prior: Tensor
    """L_T."""
    steps: Tensor
    """The sum of L_1 .. L_{T-1}."""
    decoder: Tensor
    """L_0."""

    @property
    def total(self) -> Tensor:
        """The bound, (B,)."""
        return self.prior + self.steps + self.decoder


def start_of(noise_schedule: NoiseSchedule, ratio: float) -> float:
    """The level sigma / alpha that a density is asked at: `ratio`, but no cleaner than trained.

    Raises UserError for a path whose noise is not Gaussian, or that ends before the level.
    """
    if noise_schedule.noise != "gaussian":
        raise UserError(
            f"this noise schedule's noise is {noise_schedule.noise}: a likelihood needs a Gaussian "
            "path, such as a run of model=flow, ddpm, edm or score_matching"
        )
    if not 0 < ratio < noise_schedule.max_ratio:
        raise UserError(
            f"start_ratio={ratio:g}: expected a level sigma / alpha above 0 and below the end of "
            f"the noise schedule, {noise_schedule.max_ratio:g}"
        )
    return max(ratio, noise_schedule.min_ratio)


def rademacher(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Probes of -1 and 1 for every image from its own generator, (P, B, C, H, W).

    shape is (P, C, H, W).
    """
    draws = [torch.randint(0, 2, tuple(shape), generator=g, device=g.device) for g in generators]
    return torch.stack(draws, dim=1).float() * 2 - 1


def log_density(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    images: Tensor,
    probes: Tensor,
    *,
    start_ratio: float,
    tolerance: float,
    progress: Progress | None = None,
) -> Density:
    """Log density of images as x_t / alpha at the level start_ratio, by the probability-flow ODE.

    Song et al. 2020 (arXiv 2011.13456), eq. 39, in variables in which all paths are one and both
    ends are bounded: the angle a = atan(sigma / alpha) and z = x_t / hypot(alpha, sigma), which is
    cos(a) x0 + sin(a) noise. There

        dz/da = (cos(a) z - x0_hat) / sin(a),    d log p(z(a)) / da = -div of it,

    solved up to the noisy end, where z has the distribution that samplers begin with. The trace of
    the Jacobian of x0_hat is estimated by Hutchinson's probes v (P, B, C, H, W), E[v v^T] = 1, kept
    along the path: the mean of v^T J v (eq. 40). Dormand and Prince's 5(4) pair with a step size of
    its own for each image, so what an image gets does not depend on its batch but by rounding. A
    step is accepted if its error estimate is below tolerance (1 + size), of z in the root mean
    square and of the log density in nats a dimension.

    Raises UserError if the step size vanishes.
    """
    shape, dims = images.shape, images[0].numel()
    first, last = math.atan(start_ratio), math.atan(noise_schedule.max_ratio)

    def slope(angle: Tensor, state: Tensor) -> Tensor:
        """Of z and of the integrated divergence a dimension. (B,), (B, d + P) -> (B, d + P)."""
        t = noise_schedule.t_of_ratio(angle.tan())
        own = torch.hypot(noise_schedule.alpha(t), noise_schedule.sigma(t))
        sin, cos = angle.sin()[:, None], angle.cos()[:, None]
        with torch.enable_grad():
            z = state[:, :dims].detach().view(shape).requires_grad_()
            denoised = denoise((z * per_image(own, z)).to(images.dtype), t)
            traces = []
            for k, probe in enumerate(probes):
                (product,) = torch.autograd.grad(
                    denoised, z, probe.to(denoised.dtype), retain_graph=k + 1 < len(probes)
                )
                traces.append((product * probe).flatten(1).sum(1))
        velocity = (cos * z.detach().flatten(1) - denoised.detach().flatten(1)) / sin
        divergence = (cos - torch.stack(traces, dim=1) / dims) / sin
        return torch.cat([velocity, divergence], dim=1)

    def error_norm(error: Tensor, state: Tensor) -> Tensor:
        scaled = error.abs() / (tolerance * (1 + state.abs()))
        of_z = scaled[:, :dims].square().mean(1).sqrt()
        return torch.maximum(of_z, scaled[:, dims:].amax(1))

    z = images.double().flatten(1) * math.cos(first)
    state = torch.cat([z, z.new_zeros(len(z), len(probes))], dim=1)
    state, num_calls = _solve(slope, error_norm, state, (first, last), progress)
    z, divergence = state[:, :dims], state[:, dims:].T * dims

    end = noise_schedule.t_of_ratio(torch.tensor([math.tan(last)]))
    own_end = torch.hypot(noise_schedule.alpha(end), noise_schedule.sigma(end)).item()
    std = noise_schedule.init_noise_sigma / own_end
    prior = -0.5 * (z / std).square().sum(1) - dims * math.log(std * math.sqrt(2 * math.pi))
    # z is x_t / alpha times cos(a): its density is the larger by that factor a dimension
    return Density(prior + divergence + dims * math.log(math.cos(first)), num_calls)


def _solve(
    slope: Callable[[Tensor, Tensor], Tensor],
    error_norm: Callable[[Tensor, Tensor], Tensor],
    state: Tensor,
    ends: tuple[float, float],
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """Integrate (B, S) float64 from one positive end to the other; -> the state, calls (B,).

    Every row has its own position and step, which SciPy's solvers do not offer; the coefficients of
    the pair are SciPy's.
    """
    a, b, c, e = (torch.as_tensor(v).to(state) for v in (RK45.A, RK45.B, RK45.C, RK45.E))
    first, last = ends
    position = state.new_full((len(state),), first)
    step = position.clone()  # near the clean end everything changes on the scale of the angle
    num_calls = torch.ones(len(state), dtype=torch.long)
    now = slope(position, state)
    while (running := position < last).any():
        step = torch.minimum(step, last - position)  # 0 for those that are done
        slopes = [now]
        for weights, share in zip(a[1:], c[1:], strict=True):
            moved = sum(w * s for w, s in zip(weights[: len(slopes)], slopes, strict=True))
            slopes.append(slope(position + share * step, state + step[:, None] * moved))
        moved = sum(w * s for w, s in zip(b, slopes, strict=True))
        new = state + step[:, None] * moved
        there = torch.where(step < last - position, position + step, last)
        slopes.append(slope(there, new))
        error = step[:, None] * sum(w * s for w, s in zip(e, slopes, strict=True))
        norm = error_norm(error, torch.maximum(state.abs(), new.abs()))
        num_calls += 6 * running.cpu()
        accepted = (norm <= 1) & running  # never where it is not a number
        position = torch.where(accepted, there, position)
        state = torch.where(accepted[:, None], new, state)
        now = torch.where(accepted[:, None], slopes[-1], now)
        factor = (0.9 * norm.clamp(min=1e-10) ** -0.2).nan_to_num(nan=0.2).clamp(0.2, 5)
        step = step * factor
        if (step[position < last] < SMALLEST_STEP).any():
            raise UserError(
                "the step size of the ODE vanished: raise tolerance=, or see whether the run's "
                "images are finite"
            )
        if progress is not None:  # steps grow with the angle for most of the way
            progress((position / first).log().mean().item() / math.log(last / first))
    return state, num_calls


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
    """The bound on -log P(image) of ancestral sampling from a VP run, for pixels of 256 levels.

    Ho et al. 2020 (arXiv 2006.11239), eq. 5: L_T + L_1 .. L_{T-1} + L_0, with one x_t for each
    term, the means of eq. 7 and the steps' variances beta_t ("fixed_large") or beta~_t
    ("fixed_small"). L_0 is the discretised Gaussian of eq. 13 with variance beta~_2, beta~_1 being
    0, as in the code of that paper. images are the 256 levels spread evenly over value_range.

    With num_timesteps below T - 1, the sum over L_1 .. L_{T-1} is estimated without bias from so
    many of them, evenly spaced from a random beginning, another for each image. Noise and beginning
    are each image's generator's. Raises UserError for what `check_bound` refuses.
    """
    path = check_bound(noise_schedule, variance, num_timesteps)
    alpha_bar = path.alphas_cumprod.to(images.device).double()
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    betas = 1 - alpha_bar / before
    posterior = betas * (1 - before) / (1 - alpha_bar)  # beta~, eq. 7
    of_x0 = before.sqrt() * betas / (1 - alpha_bar)  # what x0 counts in the mean of eq. 7
    chosen = posterior if variance == "fixed_small" else betas
    terms = len(alpha_bar) - 1
    count = num_timesteps or terms

    @torch.no_grad()
    def see(t: Tensor) -> Tensor:
        x_t = noise_schedule.add_noise(images, fresh_noise(images, generators), t)
        return denoise(x_t, t)

    def done(share: float) -> None:
        if progress is not None:
            progress(share)

    beginning = torch.stack([torch.rand((), generator=g, device=g.device) for g in generators])
    steps = alpha_bar.new_zeros(len(images))
    for k in range(count):
        position = ((k + beginning.double()) * terms / count).long().clamp(max=terms - 1)
        t = (position + 1).to(images.device)
        squared = (images - see(t)).double().square().flatten(1).sum(1)
        ratio = posterior[t] / chosen[t]
        per_pixel = 0.5 * (ratio - 1 - ratio.log())
        kl = images[0].numel() * per_pixel + 0.5 * of_x0[t] ** 2 / chosen[t] * squared
        steps += kl * terms / count
        done((k + 1) / (count + 1))

    denoised = see(torch.zeros(len(images), dtype=torch.long, device=images.device))
    decoder = -_log_bin(images.double(), denoised.double(), posterior[1].sqrt(), value_range)
    left, noise = alpha_bar[-1], 1 - alpha_bar[-1]
    prior = 0.5 * (left * images.double().square() + noise - 1 - noise.log())
    done(1.0)
    return Bound(prior.flatten(1).sum(1), steps, decoder.flatten(1).sum(1))


def check_bound(
    noise_schedule: NoiseSchedule, variance: str, num_timesteps: int | None
) -> VPSchedule:
    """Raise UserError if the variational bound is not defined for this path or these settings."""
    if not isinstance(noise_schedule, VPSchedule):
        raise UserError(
            "the variational bound is that of a chain of betas, and this run's noise schedule has "
            "none: use method=ode, or a run of model=ddpm"
        )
    if variance not in VARIANCES:
        raise UserError(f"variance={variance} is unknown: choose from {list(VARIANCES)}")
    terms = noise_schedule.num_train_timesteps - 1
    if num_timesteps is not None and not 1 <= num_timesteps <= terms:
        raise UserError(
            f"num_timesteps={num_timesteps}: expected 1 to {terms}, the terms of this run's bound, "
            "or null for all"
        )
    return noise_schedule


def _log_bin(x: Tensor, mean: Tensor, std: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Log of what N(mean, std^2) gives to the level x of 256; the outer bins have no outer edge."""
    low, high = value_range
    half = (high - low) / 255 / 2
    lower = torch.where(x < low + half, -torch.inf, (x - half - mean) / std)
    upper = torch.where(x > high - half, torch.inf, (x + half - mean) / std)
    # in the left tail, where the logarithm of the normal distribution keeps its digits
    mirrored = lower + upper > 0
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_upper = torch.special.log_ndtr(upper)
    return log_upper + torch.log1p(-(torch.special.log_ndtr(lower) - log_upper).exp())

"""Log-likelihood of images under a trained model, by the probability-flow ODE.

Images are (B, C, H, W) in the network's range, d = C H W. Log densities are in nats. The model is
given by its denoiser: (x_t (B, C, H, W), t (B,)) -> E[x0 | x_t].
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy.integrate import RK45
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, per_image
from diffusion_lab.diffusion.samplers.base import Denoise
from diffusion_lab.errors import UserError

SMALLEST_STEP = 1e-9  # in radians; float32 networks are not smooth on this scale

Progress = Callable[[float], None]
"""Called after each step with the fraction of the work that is done, from 0 to 1."""


class Density(NamedTuple):
    """Log densities of B images by the probability-flow ODE."""

    log_density: Tensor
    """float64 (P, B), in nats: log density of x_t / alpha at the start level, for each probe."""
    num_calls: Tensor
    """(B,) number of denoiser evaluations (NFE) until the image was finished."""


def check_start(noise_schedule: NoiseSchedule, ratio: float) -> None:
    """Raise UserError if the model has no density at the noise level `ratio`, sigma / alpha.

    The noise must be Gaussian. The level must be at least the cleanest level of the training, and
    below the noisy end. The level must also be above 0, because images without noise may lie on a
    low-dimensional set, and then they have no density.
    """
    if noise_schedule.noise != "gaussian":
        raise UserError(
            f"the run was trained with {noise_schedule.noise} noise, but a likelihood needs "
            "Gaussian noise: give another run=, for example one of model=flow, ddpm, edm or "
            "score_matching"
        )
    low, high = noise_schedule.min_ratio, noise_schedule.max_ratio
    if not max(low, 1e-6) <= ratio < high:
        raise UserError(
            f"start_ratio={ratio:g}: expected a noise level sigma / alpha that the run was trained "
            f"at, from {max(low, 1e-6):.4g} to below {high:.4g}"
        )


def rademacher(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Draw P random probes of -1 and 1 for every image, from the image's own generator.

    The argument `shape` is (P, C, H, W). With B generators, the result is (P, B, C, H, W).
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
    """Compute the log density of images by the probability-flow ODE.

    The images are taken as x_t / alpha at the noise level sigma / alpha = start_ratio. Song et al.
    2020 (arXiv 2011.13456), eq. 39, is solved in bounded variables that are the same for every
    noise schedule: the angle a = atan(sigma / alpha) and z = x_t / hypot(alpha, sigma), which is
    cos(a) x0 + sin(a) noise. In these variables

        dz/da = (cos(a) z - x0_hat) / sin(a),    d log p(z(a)) / da = -div(dz/da).

    The two equations are solved up to the noisy end, where z has the distribution of a sampler's
    first noise. The trace of the Jacobian J of x0_hat is estimated by the mean of v^T J v (eq. 40)
    over Hutchinson's probes v (P, B, C, H, W), E[v v^T] = 1, which do not change from step to step.
    The solver is Dormand and Prince's 5(4) pair. Every image has its own step size, so the other
    images of the batch change its result only by rounding. A step is accepted if its error estimate
    is below tolerance (1 + size): in root mean square for z, and in nats per dimension for the log
    density.

    Raises UserError if the step size vanishes.
    """
    shape, dims = images.shape, images[0].numel()
    first, last = math.atan(start_ratio), math.atan(noise_schedule.max_ratio)

    def slope(angle: Tensor, state: Tensor) -> Tensor:
        """Derivative of `state` with respect to the angle, (B, d + P).

        The state holds the d values of z and, for each of the P probes, the divergence per
        dimension, integrated over the angle.
        """
        t = noise_schedule.time_at_noise_ratio(angle.tan().float().to(images.device))
        own = torch.hypot(noise_schedule.alpha(t), noise_schedule.sigma(t)).cpu()
        sin, cos = angle.sin()[:, None], angle.cos()[:, None]
        with torch.enable_grad():
            z = state[:, :dims].detach().view(shape).requires_grad_()
            denoised = denoise((z * per_image(own, z)).to(images), t).cpu()
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

    # float64 for the sums of many small steps, on the CPU because not every device supports it
    z = images.cpu().double().flatten(1) * math.cos(first)
    state = torch.cat([z, z.new_zeros(len(z), len(probes))], dim=1)
    state, num_calls = _solve(slope, error_norm, state, (first, last), progress)
    z, divergence = state[:, :dims], state[:, dims:].T * dims

    end = noise_schedule.time_at_noise_ratio(torch.tensor([math.tan(last)]))
    own_end = torch.hypot(noise_schedule.alpha(end), noise_schedule.sigma(end)).item()
    std = noise_schedule.init_noise_sigma / own_end
    prior = -0.5 * (z / std).square().sum(1) - dims * math.log(std * math.sqrt(2 * math.pi))
    # z = cos(a) x_t / alpha: the density of x_t / alpha is that of z times cos(a) per dimension
    return Density(prior + divergence + dims * math.log(math.cos(first)), num_calls)


def _solve(
    slope: Callable[[Tensor, Tensor], Tensor],
    error_norm: Callable[[Tensor, Tensor], Tensor],
    state: Tensor,
    ends: tuple[float, float],
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """Integrate an ODE from ends[0] > 0 up to ends[1]; return the final state and the NFE (B,).

    The state is (B, S) in float64. Every row has its own position and step size, which
    SciPy's solvers do not offer. The Runge-Kutta coefficients are those of SciPy's RK45.
    """
    a, b, c, e = (torch.as_tensor(v).to(state) for v in (RK45.A, RK45.B, RK45.C, RK45.E))
    first, last = ends
    position = state.new_full((len(state),), first)
    step = position.clone()  # near the clean end the solution changes on the scale of the angle
    num_calls = torch.ones(len(state), dtype=torch.long)
    now = slope(position, state)
    while (running := position < last).any():
        step = torch.minimum(step, last - position)  # 0 for finished rows
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
        num_calls += 6 * running
        accepted = (norm <= 1) & running  # False where the norm is nan
        position = torch.where(accepted, there, position)
        state = torch.where(accepted[:, None], new, state)
        now = torch.where(accepted[:, None], slopes[-1], now)
        factor = (0.9 * norm.clamp(min=1e-10) ** -0.2).nan_to_num(nan=0.2).clamp(0.2, 5)
        step = step * factor
        if (step[position < last] < SMALLEST_STEP).any():
            raise UserError(
                f"the step size of the ODE solver fell below {SMALLEST_STEP:g}: raise tolerance=, "
                "or check that the samples of the run are finite"
            )
        if progress is not None:  # logarithmic: the steps grow in proportion to the angle
            progress((position / first).log().mean().item() / math.log(last / first))
    return state, num_calls

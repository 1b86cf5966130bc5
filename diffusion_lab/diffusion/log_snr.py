"""Training noise-level distribution and implied weighting as functions of log-SNR.

The number log_snr = log(alpha^2 / sigma^2) identifies a noise level in every noise schedule alike.
The log-SNR falls as t grows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.prediction import Prediction
from diffusion_lab.diffusion.time_sampling import TimeSampling
from diffusion_lab.diffusion.weighting import Weighting
from diffusion_lab.errors import UserError

_DRAWS = 2**17  # evenly spaced arguments of the quantile function
_POINTS = 1000  # points of a curve
RARE = 1e-3
"""Fraction of the training noise levels at either end that `log_snr_range` leaves out."""


def log_snr(noise_schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Return log(alpha^2 / sigma^2) at t, infinite where alpha or sigma is 0. (B,) -> (B,)."""
    alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
    return 2 * (alpha.log() - sigma.log())


def log_snr_range(
    time_sampling: TimeSampling, noise_schedule: NoiseSchedule
) -> tuple[float, float]:
    """Return the range (low, high) of finite log-SNRs that the training draws.

    The lowest and the highest fraction RARE of the drawn values are left out.
    """
    levels = log_snr(noise_schedule, time_sampling.quantile(_even(_POINTS), noise_schedule))
    levels = levels[levels.isfinite()].double().sort().values
    _check_several(levels.unique())
    edge = int(RARE * len(levels))
    low, high = levels[edge].item(), levels[-1 - edge].item()
    return low, max(high, low + 1)


def times_of(noise_schedule: NoiseSchedule, levels: Tensor) -> Tensor:
    """Return the training times nearest to the log-SNRs `levels` (n,), in the order of `levels`.

    Each time is listed once, so there are fewer than n if several levels fall on the same whole
    timestep.
    """
    t = noise_schedule.time_at_noise_ratio(torch.exp(-levels / 2))
    if not noise_schedule.at(torch.zeros(1)).is_floating_point():
        t = t.round().long()
    return torch.tensor(list(dict.fromkeys(t.tolist())), dtype=t.dtype)


@dataclass(frozen=True)
class ImpliedWeighting:
    """Implied loss weighting of a training objective, as curves over log-SNR.

    The array `log_snr` (n,) rises; the other arrays (n,) hold the curves' values at these log-SNRs.
    The training loss is the integral over log_snr of `on_x0` times the squared error on x0. It is
    also the integral of `on_epsilon` times the squared error on the noise. Up to a factor,
    `on_epsilon` is w(lambda) of Kingma & Gao 2023 (arXiv 2303.00848), eq. 7. It equals
    p * weight * x0_weight / SNR, because training noise levels are drawn from the density p, and
    the error on the noise is SNR times the error on x0.
    """

    log_snr: NDArray[np.float64]
    density: NDArray[np.float64]
    """p: density of the training noise levels, per unit of log_snr."""
    on_x0: NDArray[np.float64]
    on_epsilon: NDArray[np.float64]


@torch.no_grad()
def implied_weighting(
    time_sampling: TimeSampling,
    noise_schedule: NoiseSchedule,
    weighting: Weighting,
    prediction: Prediction,
) -> ImpliedWeighting:
    """Compute the weight that a training gives to the error at each log-SNR.

    The weight is computed at up to 1000 evenly spaced log-SNRs. One factor of it is the probability
    density of the training log-SNRs, the slope of their cumulative distribution. For noise
    schedules of whole timesteps this is the slope between neighbouring timesteps.
    """
    u = _even(_DRAWS)
    t = time_sampling.quantile(u, noise_schedule)
    levels = log_snr(noise_schedule, t).double()
    finite = levels.isfinite()
    # all u with the same timestep count as one, at their mean
    distinct, which = levels[finite].unique(return_inverse=True)
    _check_several(distinct)
    count = torch.zeros_like(distinct).index_add_(0, which, torch.ones_like(levels[finite]))
    middle = torch.zeros_like(distinct).index_add_(0, which, u[finite]) / count
    # one t for every level: any of those with that level
    first = torch.zeros_like(which[: len(distinct)]).scatter_(0, which, torch.arange(len(which)))
    even = torch.linspace(distinct[0].item(), distinct[-1].item(), _POINTS).to(distinct)
    kept = torch.searchsorted(distinct, even).clamp(max=len(distinct) - 1).unique()
    first, distinct, middle = first[kept], distinct[kept], middle[kept]

    like = next(weighting.parameters(), torch.zeros(()))
    t = t[finite][first]
    # cast before the move, because a device may not support float64
    alpha, sigma = (
        of(t).to(like.dtype).to(like.device) for of in (noise_schedule.alpha, noise_schedule.sigma)
    )
    weight = weighting.weight(alpha, sigma, prediction) * prediction.x0_weight(alpha, sigma)
    density = np.abs(np.gradient(middle.numpy(), distinct.numpy()))
    on_x0 = density * weight.cpu().double().numpy()
    level = distinct.numpy()
    return ImpliedWeighting(level, density, on_x0, on_x0 * np.exp(-level))


def _check_several(levels: Tensor) -> None:
    if len(levels) < 2:
        raise UserError(
            "the training uses fewer than two noise levels besides pure noise: results by noise "
            "level need at least two; choose another time_sampling= or noise_schedule="
        )


def _even(n: int) -> Tensor:
    """Return the midpoints of n equal slices of (0, 1), float64 (n,)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n

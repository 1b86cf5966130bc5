"""Euler and Heun solvers of the probability-flow ODE, for any noise schedule.

Both integrate dx = x0_hat dalpha + noise_hat dsigma with noise_hat = (x_t - alpha x0_hat) / sigma,
the ordinary differential equation that moves the distribution of x_t along the path. It assumes
nothing Gaussian, and runs as well from an image to its noise.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import Denoise, Sampler, Step


class Levels(NamedTuple):
    """The noise levels of n steps, (n + 1,) each, one after the other."""

    times: Tensor
    """At the clean end, which has no t of its own on every path, its neighbour's."""
    alphas: Tensor
    sigmas: Tensor

    def flip(self) -> "Levels":
        """Reverse the order."""
        return Levels(*(values.flip(0) for values in self))


def levels_to_clean(noise_schedule: NoiseSchedule, times: Tensor) -> Levels:
    """The levels of the times, noisiest first, and then the clean end: alpha 1, sigma 0."""
    alphas, sigmas = noise_schedule.alpha(times), noise_schedule.sigma(times)
    return Levels(
        torch.cat([times, times[-1:]]),
        torch.cat([alphas, alphas.new_ones(1)]),
        torch.cat([sigmas, sigmas.new_zeros(1)]),
    )


def solve(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    x: Tensor,
    levels: Levels,
    *,
    second_order: bool,
) -> Iterator[Step]:
    """Solve the ODE for x (B, C, H, W) from the first level to the last, in either direction.

    The denoiser is never asked at the clean end. There x is the image itself, and the noise that a
    vanishing sigma has added to it could be any: noise_hat is the mean of the path's noise. A
    second-order step into the clean end stays Euler's, which ends on the prediction.
    """
    times, alphas, sigmas = levels
    clean = (sigmas == 0).tolist()

    def slopes(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Derivatives of x by alpha and sigma: x0_hat and noise_hat."""
        if clean[i]:
            return x, torch.full_like(x, noise_schedule.noise_mean)
        denoised = denoise(x, times[i].expand(len(x)))
        return denoised, (x - alphas[i] * denoised) / sigmas[i]

    for i in range(len(times) - 1):
        denoised, noise_hat = slopes(x, i)
        x_next = alphas[i + 1] * denoised + sigmas[i + 1] * noise_hat
        if second_order and not clean[i + 1]:
            denoised_next, noise_next = slopes(x_next, i + 1)
            x_next = (
                x
                + (alphas[i + 1] - alphas[i]) * (denoised + denoised_next) / 2
                + (sigmas[i + 1] - sigmas[i]) * (noise_hat + noise_next) / 2
            )
        yield Step(times[i], x, denoised, x_next)
        x = x_next


class BlendSampler(Sampler):
    """Euler's step: noise_hat, then x_next = alpha' x0_hat + sigma' noise_hat.

    On the straight path that is the tutorial's blend, which moves x by 1 / (steps left) towards the
    prediction, and rectified flow's Euler step; on a VP path it is DDIM with eta 0 (Song et al.
    2020, arXiv 2010.02502, eq. 12); on a VE path Euler in sigma. The last step returns the
    prediction itself.
    """

    second_order = False  # corrects each step with the slope at its end

    def check(self, noise_schedule: NoiseSchedule) -> None:
        super().check(noise_schedule)
        noise_schedule.timesteps(self.num_steps)

    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        noise: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        times = noise_schedule.timesteps(self.num_steps).to(noise.device)
        levels = levels_to_clean(noise_schedule, times)
        x = noise * noise_schedule.init_noise_sigma
        return solve(denoise, noise_schedule, x, levels, second_order=self.second_order)


class HeunSampler(BlendSampler):
    """Heun's step: the mean of the slopes at both ends of a blend, second order.

    Karras et al. 2022 (arXiv 2206.00364), algorithm 1 without churn, for any path. Two calls of the
    denoiser a step, one in the last, which ends on the prediction: 2 num_steps - 1 in all.
    """

    second_order = True

"""Euler and Heun solvers of the probability-flow ODE, for any noise schedule.

Both solvers integrate dx = x0_hat dalpha + noise_hat dsigma, where noise_hat is (x_t - alpha
x0_hat) / sigma. This ordinary differential equation (ODE) moves the distribution of x_t along the
noise levels. It does not need Gaussian noise, and can also be solved from an image to its noise.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import Denoise, Sampler, Step


class Levels(NamedTuple):
    """The n + 1 noise levels of n steps, in the order of the steps; every field is (n + 1,)."""

    times: Tensor
    """Times t; the clean end repeats its neighbour's, because not every schedule has a t there."""
    alphas: Tensor
    sigmas: Tensor

    def flip(self) -> "Levels":
        """Return the levels in reverse order."""
        return Levels(*(values.flip(0) for values in self))


def levels_to_clean(noise_schedule: NoiseSchedule, times: Tensor) -> Levels:
    """Return the levels at `times`, noisiest first, then the clean end (alpha 1, sigma 0)."""
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
    """Solve the probability-flow ODE for x (B, C, H, W) from the first level to the last.

    The levels may become cleaner or noisier. Steps are Heun's with `second_order`, else Euler's.
    The denoiser is not evaluated at the clean end, where x0_hat is x itself and noise_hat is the
    expected noise (`noise_schedule.noise_mean`), because x contains no noise there. The step to the
    clean end is always Euler's, so that its result is the predicted clean image.
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
    """Predict the clean image and re-noise it: x_next = alpha' x0_hat + sigma' noise_hat.

    This is Euler's step of the ODE. With StraightPath it is rectified flow's Euler step and the
    sampler of Hugging Face's tutorial, which moves x by 1 / (steps left) of the way to the
    prediction. With a VP schedule it is DDIM with eta 0 (Song et al. 2020, arXiv 2010.02502, eq.
    12), and with a VE schedule Euler's step in sigma. The last step returns the predicted clean
    image.
    """

    second_order = False  # True: correct each step with the slope at its end

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
    """Heun's second-order step, with the mean of the slopes at both ends of an Euler step.

    Karras et al. 2022 (arXiv 2206.00364), algorithm 1 without churn, for any noise schedule. Every
    step has two denoiser evaluations, except the last, which has one and returns the predicted
    clean image: NFE = 2 num_steps - 1.
    """

    second_order = True

"""The two deterministic steps, each one formula for every path.

Both integrate dx = x0_hat dalpha + noise_hat dsigma with noise_hat = (x_t - alpha x0_hat) / sigma,
the ordinary differential equation that moves the distribution of x_t along the path. It assumes
nothing Gaussian.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import Denoise, Sampler, Step


def _levels(noise_schedule: NoiseSchedule, times: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at the times and then at the clean end. -> (num_steps + 1,) each."""
    alphas, sigmas = noise_schedule.alpha(times), noise_schedule.sigma(times)
    return torch.cat([alphas, alphas.new_ones(1)]), torch.cat([sigmas, sigmas.new_zeros(1)])


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
        alphas, sigmas = _levels(noise_schedule, times)
        x = noise * noise_schedule.init_noise_sigma
        for i, t in enumerate(times):
            denoised = denoise(x, t.expand(len(x)))
            noise_hat = (x - alphas[i] * denoised) / sigmas[i]
            x_next = alphas[i + 1] * denoised + sigmas[i + 1] * noise_hat
            if self.second_order and i + 1 < len(times):
                denoised_next = denoise(x_next, times[i + 1].expand(len(x)))
                noise_next = (x_next - alphas[i + 1] * denoised_next) / sigmas[i + 1]
                x_next = (
                    x
                    + (alphas[i + 1] - alphas[i]) * (denoised + denoised_next) / 2
                    + (sigmas[i + 1] - sigmas[i]) * (noise_hat + noise_next) / 2
                )
            yield Step(t, x, denoised, x_next)
            x = x_next


class HeunSampler(BlendSampler):
    """Heun's step: the mean of the slopes at both ends of a blend, second order.

    Karras et al. 2022 (arXiv 2206.00364), algorithm 1 without churn, for any path. Two calls of the
    denoiser a step, one in the last, which ends on the prediction: 2 num_steps - 1 in all.
    """

    second_order = True

"""Score-based samplers for Gaussian noise, in the coordinates x = x0 + r noise, r = sigma / alpha.

In these coordinates the score of the noised images is (x0_hat - x) / r^2.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import (
    Denoise,
    LevelDenoiser,
    Sampler,
    Step,
    fresh_noise,
)
from diffusion_lab.errors import UserError


class _ScoreSampler(Sampler):
    """Base class for samplers whose noise levels are geometrically spaced."""

    stochastic = True

    def __init__(self, num_steps: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__(num_steps)
        if not 0 < sigma_min < sigma_max < math.inf:
            raise UserError(
                f"sampler.sigma_min={sigma_min}, sampler.sigma_max={sigma_max}: "
                "expected 0 < sigma_min < sigma_max"
            )
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def _ladder(self, noise_schedule: NoiseSchedule, levels: int) -> Tensor:
        """Return geometrically spaced ratios sigma / alpha, from high to low, (levels,).

        They are between sigma_min and sigma_max, within the range of the noise schedule.
        """
        high = math.log(min(self.sigma_max, noise_schedule.max_ratio))
        low = math.log(max(self.sigma_min, noise_schedule.min_ratio))
        return torch.linspace(high, low, levels).exp()


class ReverseSDESampler(_ScoreSampler):
    """Euler-Maruyama on the reverse-time SDE: Song et al. 2021 (arXiv 2011.13456), appendix F.

    With r = sigma / alpha, a step to a lower r' is x += (r^2 - r'^2) score + sqrt(r^2 - r'^2) z,
    where z is fresh noise. The last step, to r' = 0, adds no noise.
    """

    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        noise: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        at_level = LevelDenoiser(denoise, noise_schedule)
        ratios = self._ladder(noise_schedule, self.num_steps).to(noise.device)
        x = noise * ratios[0]
        for i, ratio in enumerate(ratios):
            t, x_t, denoised = at_level(x, torch.ones_like(ratio), ratio)
            if i + 1 == len(ratios):
                x = denoised
            else:
                drop = ratio**2 - ratios[i + 1] ** 2
                x = x + drop / ratio**2 * (denoised - x)
                x = x + drop.sqrt() * fresh_noise(x, generators)
            yield Step(t, x_t, denoised, x)


class LangevinSampler(_ScoreSampler):
    """Annealed Langevin dynamics: Song & Ermon 2019 (arXiv 1907.05600), algorithm 1.

    At each level r = sigma / alpha, a step is x += step/2 score + sqrt(step) z, with fresh noise z
    and step = step_size r^2. Each level has `steps_per_level` steps. One denoising step follows at
    the end (Jolicoeur-Martineau et al. 2020, arXiv 2009.05475). The number of all steps,
    `num_steps`, is therefore one more than a multiple of steps_per_level, and equals the NFE.
    """

    def __init__(
        self,
        num_steps: int,
        steps_per_level: int = 5,
        step_size: float = 0.2,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
    ) -> None:
        super().__init__(num_steps, sigma_min, sigma_max)
        if steps_per_level < 1:
            raise UserError(
                f"sampler.steps_per_level={steps_per_level}: expected at least 1, for example "
                "sampler.steps_per_level=5"
            )
        if num_steps < 2 or (num_steps - 1) % steps_per_level:
            raise UserError(
                f"sampler.num_steps={num_steps}, sampler.steps_per_level={steps_per_level}: "
                "expected sampler.num_steps to be 1 more than a multiple of "
                "sampler.steps_per_level, because the last step only denoises, for example "
                f"sampler.num_steps={20 * steps_per_level + 1}"
            )
        if not 0 < step_size < 4:
            raise UserError(f"sampler.step_size={step_size}: expected a number between 0 and 4")
        self.steps_per_level, self.step_size = steps_per_level, step_size

    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        noise: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        at_level = LevelDenoiser(denoise, noise_schedule)
        levels = (self.num_steps - 1) // self.steps_per_level
        ratios = self._ladder(noise_schedule, levels).to(noise.device)
        x = noise * ratios[0]
        for ratio in ratios.repeat_interleave(self.steps_per_level):
            t, x_t, denoised = at_level(x, torch.ones_like(ratio), ratio)
            x = x + self.step_size / 2 * (denoised - x)
            x = x + math.sqrt(self.step_size) * ratio * fresh_noise(x, generators)
            yield Step(t, x_t, denoised, x)
        t, x_t, denoised = at_level(x, torch.ones_like(ratios[-1]), ratios[-1])
        yield Step(t, x_t, denoised, denoised)

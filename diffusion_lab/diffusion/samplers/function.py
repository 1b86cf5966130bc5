"""A plain function as a sampler, in the style of k-diffusion."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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

SamplerFunction = Callable[..., Tensor]
"""(denoise, x, sigmas, **options) -> images (B, C, H, W): see FunctionSampler."""
LARGEST_SIGMA = 80.0
"""First sigma, EDM's sigma_max, for schedules whose first sigma would be infinite."""


class FunctionSampler(Sampler):
    """A sampler made of a function: function(denoise, x, sigmas, **options) -> images.

    The arguments are in the coordinates x0 + sigma noise, for any noise schedule of the run:

    - `denoise(x, sigma)` estimates the clean images (B, C, H, W) from x (B, C, H, W) at the noise
      level sigma, which is () or (B,) with one value for all images;
    - `x` (B, C, H, W) is the noise to begin with, of scale sigmas[0];
    - `sigmas` (num_steps + 1,) are the ratios sigma / alpha of the schedule's timesteps, falling,
      followed by 0. An infinite first ratio is replaced by 80, or by twice the second if that is
      larger.

    The deterministic samplers of k-diffusion are such functions and can be used unchanged. A
    function with a parameter `noise_sampler` is stochastic: `noise_sampler(*levels)` returns fresh
    Gaussian noise like x, for every image from its own generator. `options` are further keywords.
    Every call of `denoise` is yielded as one step of the sampler.
    """

    def __init__(self, function: SamplerFunction, num_steps: int, **options: Any) -> None:
        super().__init__(num_steps)
        self.function, self.options = function, options
        self.stochastic = "noise_sampler" in inspect.signature(function).parameters

    @property
    def name(self) -> str:
        function: Any = self.function
        while hasattr(function, "func"):  # functools.partial, from a configuration
            function = function.func
        return str(getattr(function, "__name__", type(function).__name__))

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
        at_level = LevelDenoiser(denoise, noise_schedule)
        seen: list[tuple[Tensor, Tensor, Tensor]] = []

        def denoise_at(x: Tensor, sigma: Tensor) -> Tensor:
            level = torch.as_tensor(sigma, device=x.device).flatten()[0]
            seen.append(at_level(x, torch.ones_like(level), level))
            return seen[-1][2]

        sigmas = sigmas_of(noise_schedule, self.num_steps).to(noise.device)
        options = dict(self.options)
        if self.stochastic:
            options["noise_sampler"] = lambda *levels: fresh_noise(noise, generators)
        images = self.function(denoise_at, noise * sigmas[0], sigmas, **options)
        if images.shape != noise.shape:
            raise UserError(
                f"sampler {self.name} returned a tensor of shape {list(images.shape)}: expected "
                f"the images, of shape {list(noise.shape)}"
            )
        following = [x_t for _, x_t, _ in seen[1:]] + [images]
        for (t, x_t, denoised), x_next in zip(seen, following, strict=True):
            yield Step(t, x_t, denoised, x_next)


def sigmas_of(noise_schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Return the falling sigma / alpha of the schedule's timesteps, then 0. -> (num_steps + 1,)."""
    times = noise_schedule.timesteps(num_steps)
    sigmas = noise_schedule.sigma(times) / noise_schedule.alpha(times)
    if noise_schedule.max_ratio == torch.inf:  # an alpha of 0 may be rounded up
        second = sigmas[1].item() if num_steps > 1 else 0.0
        sigmas[0] = max(LARGEST_SIGMA, 2 * second)
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def function_sampler(function: SamplerFunction) -> Callable[..., FunctionSampler]:
    """Decorator that turns a function (denoise, x, sigmas, **options) -> images into a sampler.

    The decorated function takes `num_steps` and its own options, and returns a FunctionSampler. In
    a configuration it is named like a class: `_target_: my_module.my_sampler`, `num_steps: 20`, and
    options of the function.
    """

    def make(num_steps: int, **options: Any) -> FunctionSampler:
        return FunctionSampler(function, num_steps, **options)

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(make, name, getattr(function, name))
    return make

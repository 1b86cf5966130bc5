"""Samplers: from noise to images along a noise schedule, one yielded step at a time.

A sampler never sees the network or its prediction type, only `denoise(x_t, t) -> x0_hat`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.errors import UserError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), t (B,)) -> estimate of the clean images (B, C, H, W)."""


class Step(NamedTuple):
    """One step of a sampler; images are (B, C, H, W)."""

    t: Tensor
    """() the time of this step, in the noise schedule's unit."""
    x_t: Tensor
    """Input of the denoiser."""
    denoised: Tensor
    """Its estimate of the clean image."""
    x_next: Tensor
    """Result of the step; of the last one, the images."""


class Sampler(ABC):
    """A sampler of `num_steps` steps from noise to images; stochastic ones add fresh noise.

    Fresh noise is Gaussian, so a stochastic sampler is only right on a path whose noise is.
    """

    stochastic = False

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise UserError(f"sampler.num_steps={num_steps}: expected at least 1")
        self.num_steps = num_steps

    @property
    def name(self) -> str:
        """The name in errors."""
        return type(self).__name__

    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise UserError if this sampler cannot be used on that path."""
        if self.stochastic and noise_schedule.noise != "gaussian":
            raise UserError(
                f"{self.name} adds Gaussian noise on the way, and this noise schedule's noise is "
                f"{noise_schedule.noise}: use a deterministic sampler such as sampler=blend"
            )

    @abstractmethod
    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        noise: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        """Yield every step from noise (B, C, H, W) of unit scale; one generator an image."""


class LevelDenoiser:
    """A run's denoiser at any noise level of any path.

    alpha x0 + sigma noise on one path is the run's own x_t at the same ratio sigma / alpha, but for
    a factor: exact for every path, as long as the run was trained at that ratio.
    """

    def __init__(self, denoise: Denoise, noise_schedule: NoiseSchedule) -> None:
        self.denoise = denoise
        self.noise_schedule = noise_schedule

    def __call__(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Denoise x (B, C, H, W) at alpha (), sigma (). -> the run's t (), x_t, denoised."""
        t = self.noise_schedule.time_at_noise_ratio(sigma / alpha)
        own = torch.hypot(self.noise_schedule.alpha(t), self.noise_schedule.sigma(t))
        x_t = x * (own / torch.hypot(alpha, sigma))
        return t, x_t, self.denoise(x_t, t.expand(len(x)))


def fresh_noise(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Gaussian noise for every image from its own generator. (B, C, H, W)."""
    draws = [torch.randn(like.shape[1:], generator=g, device=g.device) for g in generators]
    return torch.stack(draws).to(like)


def first_noise(
    noise_schedule: NoiseSchedule, shape: torch.Size, generators: Sequence[torch.Generator]
) -> Tensor:
    """The path's noise for every image from its own generator, unit scale, on the CPU.

    shape is (C, H, W) of an image. -> (B, C, H, W).
    """
    one = torch.empty(shape)
    return torch.stack([noise_schedule.draw_noise(one, g) for g in generators])


def image_generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """One CPU generator an image: image k of a seed is the same in every batch and on every device.

    Seed and index are hashed together, so that image 1 of seed 0 is not image 0 of seed 1.
    """
    states = (
        np.random.SeedSequence((seed, k)).generate_state(1, np.uint64)[0]
        for k in range(first, first + count)
    )
    return [torch.Generator().manual_seed(int(state)) for state in states]


@torch.no_grad()
def sample_steps(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    sampler: Sampler,
    shape: tuple[int, int, int],
    *,
    num_images: int,
    seed: int,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Step]:
    """Sample images first .. first + num_images - 1 of a seed, (C, H, W) each, step by step."""
    sampler.check(noise_schedule)
    generators = image_generators(seed, first, num_images)
    noise = first_noise(noise_schedule, torch.Size(shape), generators).to(device)
    yield from sampler.steps(denoise, noise_schedule, noise, generators)

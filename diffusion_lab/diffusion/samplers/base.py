"""Interface of samplers, which turn noise into images and yield every step.

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
    """() time of this step, in the unit of the noise schedule."""
    x_t: Tensor
    """Input of the denoiser."""
    denoised: Tensor
    """The denoiser's estimate of the clean images."""
    x_next: Tensor
    """Result of the step; in the last step the sampled images."""


class Sampler(ABC):
    """A sampler of `num_steps` steps from noise to images.

    Stochastic samplers add fresh Gaussian noise in their steps, so they are correct only if the
    noise of the noise schedule is Gaussian too.
    """

    stochastic = False

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise UserError(f"sampler.num_steps={num_steps}: expected at least 1")
        self.num_steps = num_steps

    @property
    def name(self) -> str:
        """Name of the sampler in errors."""
        return type(self).__name__

    @property
    def clips(self) -> bool:
        """True if estimates of the clean images are clipped to the range of pixels, [-1, 1]."""
        return False

    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise UserError if this sampler cannot be used with the noise schedule."""
        if self.stochastic and noise_schedule.noise != "gaussian":
            raise UserError(
                f"{self.name} adds Gaussian noise in its steps, but this noise schedule's noise is "
                f"{noise_schedule.noise}: use a deterministic sampler, for example sampler=blend"
            )

    @abstractmethod
    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        noise: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        """Yield every step, from noise (B, C, H, W) of unit scale; one generator per image."""


class LevelDenoiser:
    """Wrapper that evaluates a trained denoiser at the noise levels of another noise schedule.

    Up to a factor, alpha x0 + sigma noise equals the x_t of the trained noise schedule at the same
    ratio sigma / alpha. The conversion is exact if the denoiser was trained at that ratio.
    """

    def __init__(self, denoise: Denoise, noise_schedule: NoiseSchedule) -> None:
        self.denoise = denoise
        self.noise_schedule = noise_schedule

    def __call__(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Denoise x (B, C, H, W) at the noise level alpha (), sigma ().

        Returns the time t () in the trained noise schedule, the denoiser's input x_t and its
        estimate of the clean images.
        """
        t = self.noise_schedule.time_at_noise_ratio(sigma / alpha)
        own = torch.hypot(self.noise_schedule.alpha(t), self.noise_schedule.sigma(t))
        x_t = x * (own / torch.hypot(alpha, sigma))
        return t, x_t, self.denoise(x_t, t.expand(len(x)))


def fresh_noise(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw Gaussian noise for every image from its own generator. -> (B, C, H, W)."""
    draws = [torch.randn(like.shape[1:], generator=g, device=g.device) for g in generators]
    return torch.stack(draws).to(like)


def first_noise(
    noise_schedule: NoiseSchedule, shape: torch.Size, generators: Sequence[torch.Generator]
) -> Tensor:
    """Draw the noise that a sampler begins with, for every image from its own generator.

    The noise has unit scale, and `shape` is (C, H, W) of an image. -> (B, C, H, W), on the CPU.
    """
    one = torch.empty(shape)
    return torch.stack([noise_schedule.draw_noise(one, g) for g in generators])


def image_generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """Make the CPU generators of images first .. first + count - 1 of a seed.

    Image k of a seed is therefore the same in all batches and on all devices. Seed and k are
    hashed, so that image 1 of seed 0 is not image 0 of seed 1.
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
    """Yield the sampler's steps for images first .. first + num_images - 1 of a seed.

    `shape` is (C, H, W) of an image. Raises UserError if the sampler rejects the noise schedule.
    """
    sampler.check(noise_schedule)
    generators = image_generators(seed, first, num_images)
    noise = first_noise(noise_schedule, torch.Size(shape), generators).to(device)
    yield from sampler.steps(denoise, noise_schedule, noise, generators)

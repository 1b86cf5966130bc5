"""The path from a clean image to noise: x_t = alpha(t) x0 + sigma(t) noise.

Shapes everywhere: x0, x_t, noise are (B, C, H, W); t, alpha, sigma are (B,). t grows with noise.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.errors import UserError

NOISES = ("gaussian", "uniform")


def per_image(coefficient: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), so that it multiplies a batch of images."""
    return coefficient.view(-1, *[1] * (like.ndim - 1))


class NoiseSchedule(ABC):
    """A path, how its t is drawn in training, which noise lies at its end, and the network's clock.

    Not an nn.Module on purpose: its tables must stay float32 whatever the precision of the run.
    """

    noise: str

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of the clean image left at t, in [0, 1]. (B,) -> (B,)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Scale of the noise at t. (B,) -> (B,)."""

    @abstractmethod
    def draw_t(
        self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw n training times, uniform over the path. -> (n,)."""

    @abstractmethod
    def timesteps(self, num_steps: int) -> Tensor:
        """The times a sampler visits, noisiest first, without the clean end. -> (num_steps,)."""

    @abstractmethod
    def span(self, n: int) -> Tensor:
        """N times evenly over the whole path, from the cleanest to the noisiest. -> (n,)."""

    @abstractmethod
    def network_time(self, t: Tensor) -> Tensor:
        """The number the network gets as time, float32 in [0, 1000) or close. (B,) -> (B,)."""

    @property
    @abstractmethod
    def reaches_pure_noise(self) -> bool:
        """Whether alpha is 0 somewhere, so that epsilon and score say nothing about x0 there."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) noise. (B, C, H, W) -> (B, C, H, W)."""
        return per_image(self.alpha(t), x0) * x0 + per_image(self.sigma(t), x0) * noise

    def draw_noise(self, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise of this path shaped like x0; drawn where the generator lives, then moved."""
        draw = torch.rand if self.noise == "uniform" else torch.randn
        device = x0.device if generator is None else generator.device
        return draw(x0.shape, generator=generator, device=device).to(x0)


class LinearSchedule(NoiseSchedule):
    """x_t = (1 - t) x0 + t noise, t in [0, 1]: the tutorial's corruption and rectified flow's path.

    Liu et al. 2022 (arXiv 2209.03003), eq. 1 with time reversed. With `noise="uniform"` (on [0, 1])
    it is what the tutorial does; nothing in the path itself asks for Gaussian noise.
    """

    def __init__(self, noise: str = "gaussian") -> None:
        if noise not in NOISES:
            raise UserError(f"noise_schedule.noise={noise} is unknown: choose from {list(NOISES)}")
        self.noise = noise

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def draw_t(
        self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> Tensor:
        return torch.rand(n, device=device, generator=generator)

    def timesteps(self, num_steps: int) -> Tensor:
        return 1 - torch.arange(num_steps) / num_steps

    def span(self, n: int) -> Tensor:
        return torch.linspace(0, 1, n)

    def network_time(self, t: Tensor) -> Tensor:
        return t * 1000  # the range sinusoidal embeddings are made for

    @property
    def reaches_pure_noise(self) -> bool:
        return True


class VPSchedule(NoiseSchedule):
    """Variance preserving, alpha^2 + sigma^2 = 1, t an integer in [0, num_train_timesteps).

    alpha_t^2 = prod_{s<=t} (1 - beta_s): Ho et al. 2020 (arXiv 2006.11239), eq. 4. The betas are
    those of diffusers' DDPMScheduler with this configuration, and samplers are made from the same
    configuration, so the two cannot disagree.
    """

    noise = "gaussian"

    def __init__(
        self,
        beta_schedule: str = "linear",
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
    ) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        if num_train_timesteps < 2:
            raise UserError(
                f"noise_schedule.num_train_timesteps={num_train_timesteps}: at least 2 are needed"
            )
        if not 0 < beta_start <= beta_end < 1:
            raise UserError(
                f"noise_schedule.beta_start={beta_start}, beta_end={beta_end}: "
                "expected 0 < beta_start <= beta_end < 1"
            )
        try:
            scheduler = DDPMScheduler(
                num_train_timesteps=num_train_timesteps,
                beta_schedule=beta_schedule,
                beta_start=beta_start,
                beta_end=beta_end,
            )
        except NotImplementedError:
            raise UserError(
                f"noise_schedule.beta_schedule={beta_schedule} is unknown to diffusers: "
                "choose from ['linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid']"
            ) from None
        self.scheduler_config: dict[str, Any] = {
            "num_train_timesteps": num_train_timesteps,
            # the betas themselves: not every scheduler knows every name (DDIM lacks sigmoid)
            "trained_betas": scheduler.betas.tolist(),
        }
        self.num_train_timesteps = num_train_timesteps
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod

    def _at(self, t: Tensor) -> Tensor:
        self.alphas_cumprod = self.alphas_cumprod.to(t.device)
        return self.alphas_cumprod[t]

    def alpha(self, t: Tensor) -> Tensor:
        return self._at(t) ** 0.5

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self._at(t)) ** 0.5

    def draw_t(
        self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> Tensor:
        return torch.randint(self.num_train_timesteps, (n,), device=device, generator=generator)

    def timesteps(self, num_steps: int) -> Tensor:
        # "trailing" in Table 2 of Lin et al. 2023 (arXiv 2305.08891): the only one of the usual
        # spacings that starts at the noise the network was trained on
        if num_steps > self.num_train_timesteps:
            raise UserError(
                f"sampler.num_steps={num_steps}: this noise schedule has only "
                f"{self.num_train_timesteps} timesteps"
            )
        steps = torch.arange(num_steps, 0, -1) * self.num_train_timesteps / num_steps
        return steps.round().long() - 1

    def span(self, n: int) -> Tensor:
        return torch.linspace(0, self.num_train_timesteps - 1, n).round().long()

    def network_time(self, t: Tensor) -> Tensor:
        return t.float()

    @property
    def reaches_pure_noise(self) -> bool:
        return bool(self.alphas_cumprod[-1] == 0)

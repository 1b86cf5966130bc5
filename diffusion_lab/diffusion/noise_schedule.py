"""The path from a clean image to noise: x_t = alpha(t) x0 + sigma(t) noise.

Shapes everywhere: x0, x_t, noise are (B, C, H, W); t, alpha, sigma are (B,). t grows with noise.
The ratio sigma / alpha names a noise level on every path alike: two paths at the same ratio differ
by a factor on x alone, which is how a sampler of one path draws from a run trained on another.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.errors import UserError

NOISES = ("gaussian", "uniform")
GRID = 1000
"""Timesteps of the VP path that stands for a continuous path in diffusers' schedulers."""


def per_image(coefficient: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), so that it multiplies a batch of images."""
    return coefficient.view(-1, *[1] * (like.ndim - 1))


class NoiseSchedule(ABC):
    """A path, which noise lies at its end, and what the network gets of t.

    Not an nn.Module on purpose: its tables must stay float32 whatever the precision of the run.
    """

    noise: str = "gaussian"
    init_noise_sigma: float = 1.0
    """What a sampler multiplies fresh noise with to stand at the noisy end."""

    @property
    def noise_mean(self) -> float:
        """The mean of every pixel of the noise."""
        return 0.5 if self.noise == "uniform" else 0.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of the clean image left at t, in [0, 1]. (B,) -> (B,)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Scale of the noise at t. (B,) -> (B,)."""

    @abstractmethod
    def at(self, position: Tensor) -> Tensor:
        """The t at a position along the path, from 0 (clean) to 1 (noise). (n,) -> (n,)."""

    @abstractmethod
    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        """The t where sigma / alpha is `ratio`, clamped to the path. (n,) -> (n,) float32."""

    @abstractmethod
    def timesteps(self, num_steps: int) -> Tensor:
        """The times a sampler visits, noisiest first, without the clean end. -> (num_steps,)."""

    @abstractmethod
    def network_time(self, t: Tensor) -> Tensor:
        """The number the network gets as time, float32 in [0, 1000]. (B,) -> (B,)."""

    @property
    @abstractmethod
    def max_ratio(self) -> float:
        """Sigma / alpha at the noisy end; infinite where alpha is 0."""

    @property
    @abstractmethod
    def min_ratio(self) -> float:
        """Sigma / alpha at the cleanest t that training draws; 0 on a path that begins at x0."""

    @property
    def signal_at_end(self) -> float:
        """Alpha at the noisy end of the path, rescaled to unit variance; 0 where it is pure noise.

        Sampling begins with pure noise, so whatever is left there of the images biases samples.
        """
        return 1 / math.hypot(1, self.max_ratio)

    def sampled_mean(self, mean: float, std: float) -> float:
        """Mean of exact samples of pixels N(mean, std^2) that begin with noise of mean 0.

        At the end of the path x_T ~ N(a mean, a^2 std^2 + 1 - a^2) with a = signal_at_end, and the
        probability-flow ODE keeps a pixel's distance from the mean in standard deviations.
        """
        a = self.signal_at_end
        return mean - a * mean * std / math.sqrt((a * std) ** 2 + 1 - a**2)

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """What diffusers' VP schedulers need to walk this path, rescaled to unit variance.

        Betas with the same sigma / alpha at GRID times: alpha_bar = 1 / (1 + ratio^2).
        """
        t = self.at((torch.arange(GRID) + 1) / (GRID + 1))
        ratio = (self.sigma(t) / self.alpha(t)).double()
        alpha_bar = torch.cat([torch.ones(1).double(), 1 / (1 + ratio**2)])
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()
        return {"num_train_timesteps": GRID, "trained_betas": betas}

    def input_scale(self, t: Tensor) -> Tensor:
        """What x_t is multiplied with before the network sees it: 1 but on VE paths. (B,)."""
        return torch.ones_like(t, dtype=torch.float32)

    def span(self, n: int) -> Tensor:
        """N times evenly over the whole path, from the cleanest to the noisiest. -> (n,)."""
        return self.at(torch.linspace(0, 1, n))

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

    max_ratio = math.inf
    min_ratio = 0.0

    def __init__(self, noise: str = "gaussian") -> None:
        if noise not in NOISES:
            raise UserError(f"noise_schedule.noise={noise} is unknown: choose from {list(NOISES)}")
        self.noise = noise

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def at(self, position: Tensor) -> Tensor:
        return position

    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + 1 / ratio.float())  # also right where the ratio is 0 or infinite

    def timesteps(self, num_steps: int) -> Tensor:
        return 1 - torch.arange(num_steps) / num_steps

    def network_time(self, t: Tensor) -> Tensor:
        return t * 1000  # the range sinusoidal embeddings are made for


class VESchedule(NoiseSchedule):
    """Variance exploding, x_t = x0 + t noise: t is sigma, in [sigma_min, sigma_max].

    `spacing="karras"` walks sigma^(1/rho) evenly (Karras et al. 2022, arXiv 2206.00364, eq. 5),
    `spacing="geometric"` log sigma (Song & Ermon 2019, arXiv 1907.05600, section 4). The network
    sees x_t / sqrt(sigma^2 + sigma_data^2), EDM's c_in, and log sigma as time, EDM's c_noise moved
    to the range of sinusoidal embeddings.
    """

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        spacing: str = "karras",
        rho: float = 7.0,
    ) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise UserError(
                f"noise_schedule.sigma_min={sigma_min}, sigma_max={sigma_max}: "
                "expected 0 < sigma_min < sigma_max"
            )
        if sigma_data <= 0 or rho <= 0:
            raise UserError(
                f"noise_schedule.sigma_data={sigma_data}, rho={rho}: expected numbers above 0"
            )
        if spacing not in ("karras", "geometric"):
            raise UserError(
                f"noise_schedule.spacing={spacing} is unknown: choose from ['karras', 'geometric']"
            )
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data
        self.spacing, self.rho = spacing, rho
        self.init_noise_sigma = sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def at(self, position: Tensor) -> Tensor:
        if self.spacing == "geometric":
            low, high = math.log(self.sigma_min), math.log(self.sigma_max)
            return torch.exp(low + position * (high - low))
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + position * (high - low)) ** self.rho

    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        return ratio.float().clamp(self.sigma_min, self.sigma_max)

    def timesteps(self, num_steps: int) -> Tensor:
        return self.span(num_steps).flip(0) if num_steps > 1 else self.at(torch.ones(1))

    def network_time(self, t: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return 1000 * (t.float().log() - low) / (high - low)

    def input_scale(self, t: Tensor) -> Tensor:
        return (t.float() ** 2 + self.sigma_data**2) ** -0.5

    @property
    def max_ratio(self) -> float:
        return self.sigma_max

    @property
    def min_ratio(self) -> float:
        return self.sigma_min

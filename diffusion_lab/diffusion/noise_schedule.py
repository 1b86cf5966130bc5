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

from diffusion_lab.errors import UserError, unknown_name

NOISES = ("gaussian", "uniform")
SPACINGS = ("karras", "geometric")
GRID = 1000
"""Timesteps of the VP path that stands for a continuous path in diffusers' schedulers."""
BISECTIONS = 40
"""Halvings of the path in search of a noise level: 2^-40 is below the spacing of float32."""


def per_image(coefficient: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), so that it multiplies a batch of images."""
    return coefficient.view(-1, *[1] * (like.ndim - 1))


class NoiseSchedule(ABC):
    """A path from images to noise. A subclass has to define `alpha` and `sigma` and nothing else.

    By default t runs over [0, 1], 0 being the cleanest time that training draws and 1 the noisiest;
    another range needs its own `at`. sigma / alpha must grow with t. Everything else is derived
    from the two, and can be overridden where there is a closed form. A path of whole timesteps
    overrides `at`, `time_at_noise_ratio` and `timesteps`.

    Not an nn.Module on purpose: its tables must stay float32 whatever the precision of the run.
    """

    noise: str = "gaussian"
    """Distribution of the noise, one of NOISES."""

    @property
    def noise_mean(self) -> float:
        """The mean of every pixel of the noise."""
        return 0.5 if self.noise == "uniform" else 0.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Fraction of the clean image left at t, in [0, 1]. (B,) -> (B,)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Scale of the noise at t. (B,) -> (B,)."""

    def at(self, position: Tensor) -> Tensor:
        """The t at a position along the path, from 0 (clean) to 1 (noise). (n,) -> (n,)."""
        return position

    def time_at_noise_ratio(self, ratio: Tensor) -> Tensor:
        """The t where sigma / alpha is `ratio`, clamped to the path. (n,) -> (n,) float32.

        By bisection along the path, to the precision of float32.
        """
        ratio = ratio.float()
        low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            t = self.at(middle)
            # no quotient: alpha may be 0 at the noisy end
            below = self.sigma(t) < ratio * self.alpha(t)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        position = torch.where(ratio >= self.max_ratio, 1.0, high)
        return self.at(torch.where(ratio <= self.min_ratio, 0.0, position))

    def timesteps(self, num_steps: int) -> Tensor:
        """The times a sampler visits, noisiest first, without the clean end. -> (num_steps,)."""
        return self.at(1 - torch.arange(num_steps) / num_steps)

    def network_time(self, t: Tensor) -> Tensor:
        """The number the network gets as time, float32 in [0, 1000]. (B,) -> (B,)."""
        first, last = self.span(2).to(t)
        return (1000 * (t - first) / (last - first)).float()

    @property
    def max_ratio(self) -> float:
        """Sigma / alpha at the noisy end; infinite where alpha is 0."""
        return self._ratio_at(1.0)

    @property
    def min_ratio(self) -> float:
        """Sigma / alpha at the cleanest t that training draws; 0 on a path that begins at x0."""
        return self._ratio_at(0.0)

    def _ratio_at(self, position: float) -> float:
        t = self.at(torch.tensor([position]))
        alpha, sigma = self.alpha(t).item(), self.sigma(t).item()
        # a cosine of pi / 2 is not quite 0 in float32
        return sigma / alpha if alpha > 1e-7 * sigma else math.inf

    @property
    def init_noise_sigma(self) -> float:
        """The factor on noise of unit scale with which a sampler begins: sigma at the noisy end."""
        return self.sigma(self.at(torch.ones(1))).item()

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
        """Settings of diffusers' VP schedulers for this path, rescaled to unit variance.

        Betas with the same sigma / alpha at GRID times: alpha_bar = 1 / (1 + ratio^2).
        """
        t = self.at((torch.arange(GRID) + 1) / (GRID + 1))
        ratio = (self.sigma(t) / self.alpha(t)).double()
        alpha_bar = torch.cat([torch.ones(1).double(), 1 / (1 + ratio**2)])
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()
        return {"num_train_timesteps": GRID, "trained_betas": betas}

    def input_scale(self, t: Tensor) -> Tensor:
        """The factor on x_t before the network sees it: 1 except on VE paths. (B,) -> (B,)."""
        return torch.ones_like(t, dtype=torch.float32)

    def span(self, n: int) -> Tensor:
        """Spread n times evenly over the path, from the cleanest to the noisiest. -> (n,)."""
        return self.at(torch.linspace(0, 1, n))

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) noise. (B, C, H, W) -> (B, C, H, W)."""
        return per_image(self.alpha(t), x0) * x0 + per_image(self.sigma(t), x0) * noise

    def draw_noise(self, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise shaped like x0, on the generator's device, then moved to that of x0."""
        draw = torch.rand if self.noise == "uniform" else torch.randn
        device = x0.device if generator is None else generator.device
        return draw(x0.shape, generator=generator, device=device).to(x0)


class StraightPath(NoiseSchedule):
    """x_t = (1 - t) x0 + t noise, t in [0, 1]: the tutorial's corruption and rectified flow's path.

    Liu et al. 2022 (arXiv 2209.03003), eq. 1 with time reversed. With `noise="uniform"` (on [0, 1])
    it is what the tutorial does; nothing in the path itself asks for Gaussian noise.
    """

    max_ratio = math.inf
    min_ratio = 0.0
    init_noise_sigma = 1.0

    def __init__(self, noise: str = "gaussian") -> None:
        if noise not in NOISES:
            raise UserError(unknown_name("noise_schedule.noise", noise, NOISES))
        self.noise = noise

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_at_noise_ratio(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + 1 / ratio.float())  # also right where the ratio is 0 or infinite

    def network_time(self, t: Tensor) -> Tensor:
        return t * 1000  # the range sinusoidal embeddings are made for


LinearSchedule = StraightPath
"""Old name, found in saved configurations."""


class VESchedule(NoiseSchedule):
    """Variance exploding, x_t = x0 + t noise: t is sigma, in [sigma_min, sigma_max].

    `spacing="karras"` is even in sigma^(1/rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5),
    `spacing="geometric"` in log sigma (Song & Ermon 2019, arXiv 1907.05600, section 4). The network
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
        if spacing not in SPACINGS:
            raise UserError(unknown_name("noise_schedule.spacing", spacing, SPACINGS))
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data
        self.spacing, self.rho = spacing, rho

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

    def time_at_noise_ratio(self, ratio: Tensor) -> Tensor:
        return ratio.float().clamp(self.sigma_min, self.sigma_max)

    def timesteps(self, num_steps: int) -> Tensor:
        return self.span(num_steps).flip(0) if num_steps > 1 else self.at(torch.ones(1))

    def network_time(self, t: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return 1000 * (t.float().log() - low) / (high - low)

    def input_scale(self, t: Tensor) -> Tensor:
        return (t.float() ** 2 + self.sigma_data**2) ** -0.5

    @property
    def init_noise_sigma(self) -> float:
        return self.sigma_max

    @property
    def max_ratio(self) -> float:
        return self.sigma_max

    @property
    def min_ratio(self) -> float:
        return self.sigma_min

"""Noise schedules: x_t = alpha(t) x0 + sigma(t) noise, from a clean image to noise.

Shapes everywhere: x0, x_t, noise are (B, C, H, W); t, alpha, sigma are (B,). The time t grows with
the noise. The ratio sigma / alpha identifies a noise level in every noise schedule alike: at the
same ratio the x_t of two schedules differ only by a factor. A sampler that is made for one schedule
can therefore use a model that was trained with another.
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
"""Timesteps of the VP schedule that replaces a continuous one in diffusers' schedulers."""
BISECTIONS = 40
"""Bisections in the search for a noise level: 2^-40 is below the spacing of float32."""


def per_image(coefficient: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), so that it multiplies a batch of images."""
    return coefficient.view(-1, *[1] * (like.ndim - 1))


class NoiseSchedule(ABC):
    """A noise schedule: the path of x_t = alpha(t) x0 + sigma(t) noise from image to noise.

    "Path" means this curve of x_t over t, from the clean end to the noisy end. A subclass has to
    define only `alpha` and `sigma`. By default t runs over [0, 1], from the cleanest time of the
    training to the noisiest; another range needs its own `at`. The ratio sigma / alpha must grow
    with t. All other methods are derived from alpha and sigma, and can be overridden by a closed
    form. A schedule of whole timesteps overrides `at`, `time_at_noise_ratio` and `timesteps`.

    The class is not an nn.Module, because its tables must stay float32 in every precision.
    """

    noise: str = "gaussian"
    """Distribution of the noise, one of NOISES."""

    @property
    def noise_mean(self) -> float:
        """The mean of every pixel of the noise."""
        return 0.5 if self.noise == "uniform" else 0.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the clean image at t, in [0, 1]. (B,) -> (B,)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Scale of the noise at t. (B,) -> (B,)."""

    def at(self, position: Tensor) -> Tensor:
        """Return the t at a position along the path, from 0 (clean) to 1 (noisy). (n,) -> (n,)."""
        return position

    def time_at_noise_ratio(self, ratio: Tensor) -> Tensor:
        """Return the t where sigma / alpha is `ratio`, clamped to the path's ends. (n,) -> (n,).

        The t is found by bisection along the path, to the precision of float32.
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
        """Return the times (num_steps,) of a sampler, noisiest first, without the clean end."""
        return self.at(1 - torch.arange(num_steps) / num_steps)

    def network_time(self, t: Tensor) -> Tensor:
        """Convert t to the network's time input, float32 in [0, 1000]. (B,) -> (B,)."""
        first, last = self.span(2).to(t)
        return (1000 * (t - first) / (last - first)).float()

    @property
    def max_ratio(self) -> float:
        """The ratio sigma / alpha at the noisy end; infinite if alpha is 0."""
        return self._ratio_at(1.0)

    @property
    def min_ratio(self) -> float:
        """The ratio sigma / alpha at the cleanest t of the training; 0 if x_t is x0 there."""
        return self._ratio_at(0.0)

    def _ratio_at(self, position: float) -> float:
        t = self.at(torch.tensor([position]))
        alpha, sigma = self.alpha(t).item(), self.sigma(t).item()
        # with a tolerance, because for example cos(pi / 2) is not exactly 0 in float32
        return sigma / alpha if alpha > 1e-7 * sigma else math.inf

    @property
    def init_noise_sigma(self) -> float:
        """Scale of the noise that a sampler begins with: sigma at the noisy end."""
        return self.sigma(self.at(torch.ones(1))).item()

    @property
    def signal_at_end(self) -> float:
        """The signal at the noisy end, alpha / sqrt(alpha^2 + sigma^2); 0 for pure noise.

        Sampling begins with pure noise, so a value above 0 biases the samples.
        """
        return 1 / math.hypot(1, self.max_ratio)

    def sampled_mean(self, mean: float, std: float) -> float:
        """Return the mean pixel of an ideal model's samples, if data pixels are N(mean, std^2).

        The result differs from `mean` if the noise schedule does not end at pure noise. Sampling
        begins with noise of mean 0, but noised data has x_T ~ N(a mean, a^2 std^2 + 1 - a^2) at
        the noisy end, with a = signal_at_end. A pixel's distance from the mean, in standard
        deviations, is preserved by the probability-flow ODE.
        """
        a = self.signal_at_end
        return mean - a * mean * std / math.sqrt((a * std) ** 2 + 1 - a**2)

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """Settings that give a VP scheduler of diffusers the noise levels of this schedule.

        The scheduler has GRID timesteps. The betas follow from this schedule's ratios sigma / alpha
        at GRID times, by alpha_bar = 1 / (1 + ratio^2).
        """
        t = self.at((torch.arange(GRID) + 1) / (GRID + 1))
        ratio = (self.sigma(t) / self.alpha(t)).double()
        alpha_bar = torch.cat([torch.ones(1).double(), 1 / (1 + ratio**2)])
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()
        return {"num_train_timesteps": GRID, "trained_betas": betas}

    def input_scale(self, t: Tensor) -> Tensor:
        """Return the factor on x_t in the network's input: 1 except for VESchedule. (B,)."""
        return torch.ones_like(t, dtype=torch.float32)

    def span(self, n: int) -> Tensor:
        """Return n times at evenly spaced positions, from the cleanest to the noisiest. -> (n,)."""
        return self.at(torch.linspace(0, 1, n))

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = alpha(t) x0 + sigma(t) noise. (B, C, H, W) -> (B, C, H, W)."""
        return per_image(self.alpha(t), x0) * x0 + per_image(self.sigma(t), x0) * noise

    def draw_noise(self, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise shaped like x0 on the generator's device; move it to the device of x0."""
        draw = torch.rand if self.noise == "uniform" else torch.randn
        device = x0.device if generator is None else generator.device
        return draw(x0.shape, generator=generator, device=device).to(x0)


class StraightPath(NoiseSchedule):
    """Straight path of rectified flow and Hugging Face's tutorial: x_t = (1 - t) x0 + t noise.

    Liu et al. 2022 (arXiv 2209.03003), eq. 1 with time reversed, t in [0, 1]. The noise is Gaussian
    or, with `noise="uniform"` as in the tutorial, uniform on [0, 1].
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
"""Old name of StraightPath, kept for saved configurations."""


class VESchedule(NoiseSchedule):
    """Variance-exploding schedule, x_t = x0 + t noise, where t is sigma in [sigma_min, sigma_max].

    Times are spaced evenly in sigma^(1/rho) with `spacing="karras"` (Karras et al. 2022, arXiv
    2206.00364, eq. 5), and in log sigma with `spacing="geometric"` (Song & Ermon 2019, arXiv
    1907.05600, section 4). The inputs of the network are x_t / sqrt(sigma^2 + sigma_data^2) (EDM's
    c_in) and, as time, log sigma scaled to [0, 1000] (EDM's c_noise in the range of sinusoidal
    embeddings).
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
                f"noise_schedule.sigma_min={sigma_min}, noise_schedule.sigma_max={sigma_max}: "
                "expected 0 < sigma_min < sigma_max"
            )
        if sigma_data <= 0 or rho <= 0:
            raise UserError(
                f"noise_schedule.sigma_data={sigma_data}, noise_schedule.rho={rho}: expected "
                "numbers above 0"
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

"""Distributions of the training times: quantile functions applied to U(0, 1)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.errors import UserError


class TimeSampling(ABC):
    """A distribution of the training times, one t per image.

    With `stratified`, u is drawn once from each of B equal slices of (0, 1), in random order. Every
    t is distributed as before, but the batch covers the noise levels evenly, so the loss varies
    less from step to step. Kingma et al. 2021 (arXiv 2107.00630), appendix I.1, have the same idea
    with one offset for all slices.
    """

    def __init__(self, stratified: bool = False) -> None:
        self.stratified = stratified

    @abstractmethod
    def quantile(self, u: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
        """The t below which a fraction u of the draws lies. (B,) -> (B,)."""

    def draw(
        self,
        n: int,
        noise_schedule: NoiseSchedule,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n times. -> (n,)."""
        # float32 whatever the default is: bfloat16 has only 128 numbers from 0.5 to 1
        u = torch.rand(n, dtype=torch.float32, device=device, generator=generator)
        if self.stratified:
            u = (torch.randperm(n, device=device, generator=generator) + u) / n
        return self.quantile(u, noise_schedule)


class UniformTime(TimeSampling):
    """Uniform in the position along the path: in t, or in the spacing of a VE schedule."""

    def quantile(self, u: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
        return noise_schedule.at(u)


class LogitNormalTime(TimeSampling):
    """Position along the path = sigmoid(N(mean, std)): Esser et al. 2024 (arXiv 2403.03206), 3.1.

    Draws the middle of the path more often than its ends.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> None:
        super().__init__(stratified)
        self.mean, self.std = mean, _positive(std)

    def quantile(self, u: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
        return noise_schedule.at(torch.sigmoid(self.mean + self.std * _normal_quantile(u)))


class LogNormalTime(TimeSampling):
    """Noise levels log(sigma / alpha) = N(mean, std), as in EDM (arXiv 2206.00364, table 1)."""

    def __init__(self, mean: float = -1.2, std: float = 1.2, stratified: bool = False) -> None:
        super().__init__(stratified)
        self.mean, self.std = mean, _positive(std)

    def quantile(self, u: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
        t = noise_schedule.time_at_noise_ratio(
            torch.exp(self.mean + self.std * _normal_quantile(u))
        )
        # a schedule of whole timesteps is trained at these only
        whole = not noise_schedule.at(torch.zeros(1)).is_floating_point()
        return t.round().long() if whole else t


class NoiseEndTime(TimeSampling):
    """A fraction `share` of the times at pure noise, the others uniform along the path.

    For paths that reflow has straightened (`teacher.run=`), because the first step matters most on
    them. Lee et al. 2024 (arXiv 2405.20320) draw both ends of the path more often than the middle.
    """

    def __init__(self, share: float = 0.8, stratified: bool = False) -> None:
        super().__init__(stratified)
        if not 0 <= share < 1:
            raise UserError(f"time_sampling.share={share}: expected a number from 0 to below 1")
        self.share = share

    def quantile(self, u: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
        return noise_schedule.at((u / (1 - self.share)).clamp(max=1))


def _positive(std: float) -> float:
    if std <= 0:
        raise UserError(f"time_sampling.std={std}: expected a number above 0")
    return std


def _normal_quantile(u: Tensor) -> Tensor:
    # rand may give an exact 0, whose quantile is infinite
    inside = u.clamp(1e-7, 1 - 1e-7)
    if u.device.type == "mps":  # torch has no ndtri for mps
        return torch.special.ndtri(inside.cpu()).to(u.device)
    return torch.special.ndtri(inside)

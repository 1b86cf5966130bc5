"""Distributions of the training times: quantile functions applied to U(0, 1)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.errors import UserError


class TimeSampling(ABC):
    """Distribution of the training times, one t per image of a batch.

    With `stratified`, the uniform numbers u of the B images are drawn from B equal slices of
    (0, 1), one from each slice, in random order. Every single t has the same distribution as
    without `stratified`, but the batch covers the noise levels evenly, so the loss varies less from
    step to step. Kingma et al. 2021 (arXiv 2107.00630), appendix I.1, use one random offset for
    all slices instead.
    """

    def __init__(self, stratified: bool = False) -> None:
        self.stratified = stratified

    @abstractmethod
    def quantile(self, u: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
        """Return the quantiles of t at fractions u in [0, 1]. (B,) -> (B,)."""

    def draw(
        self,
        n: int,
        noise_schedule: NoiseSchedule,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n random training times t. -> (n,)."""
        # float32 whatever the default is: bfloat16 has only 128 numbers from 0.5 to 1
        u = torch.rand(n, dtype=torch.float32, device=device, generator=generator)
        if self.stratified:
            u = (torch.randperm(n, device=device, generator=generator) + u) / n
        return self.quantile(u, noise_schedule)


class UniformTime(TimeSampling):
    """Uniform position along the noise schedule: t is uniform, except for VESchedule."""

    def quantile(self, u: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
        return noise_schedule.at(u)


class LogitNormalTime(TimeSampling):
    """Logit-normal position along the noise schedule: Esser et al. 2024 (arXiv 2403.03206), 3.1.

    The position is sigmoid(z) with z ~ N(mean, std^2). The middle of the noise schedule is drawn
    more often than its ends.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> None:
        super().__init__(stratified)
        self.mean, self.std = mean, _positive(std)

    def quantile(self, u: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
        return noise_schedule.at(torch.sigmoid(self.mean + self.std * _normal_quantile(u)))


class LogNormalTime(TimeSampling):
    """Log-normal noise level, log(sigma / alpha) ~ N(mean, std^2): EDM (2206.00364), table 1."""

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
    """A fraction `share` of the times at pure noise, the other times uniform.

    This is for reflow (`teacher.run=`), because on its straightened paths the first sampling step
    matters most. Lee et al. 2024 (arXiv 2405.20320) draw both ends of the path more often than the
    middle.
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

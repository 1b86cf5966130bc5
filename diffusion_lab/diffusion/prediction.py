"""Prediction targets of the network, and the x0 estimate from the network's output.

The target is computed from x0 and noise, never by dividing a residual by sigma, which would be
inaccurate at small sigma. The method `to_clean` inverts `target`, given x_t = alpha x0 + sigma
noise. Images are (B, C, H, W), alpha and sigma (B,).
"""

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, per_image
from diffusion_lab.errors import UserError


class Prediction(ABC):
    """A prediction target and its inverse. A subclass has to define `target` and `to_clean`."""

    needs_signal = False
    """True if `to_clean` divides by alpha and is therefore undefined at pure noise (alpha = 0)."""

    @property
    def name(self) -> str:
        """Name of the prediction in errors and in exported files."""
        return type(self).__name__

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the target of the network's output for these images and noise. -> (B, C, H, W)."""

    @abstractmethod
    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the x0 estimate from the network's output. -> (B, C, H, W)."""

    def x0_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the squared error on the target divided by the squared error on x0. (B,) -> (B,).

        The default computes it from the slope of `to_clean`, which has to be affine in the output.
        """
        x_t = alpha.new_zeros(len(alpha), 1, 1, 1)
        slope = self.to_clean(x_t + 1, x_t, alpha, sigma) - self.to_clean(x_t, x_t, alpha, sigma)
        return slope.flatten() ** -2

    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise UserError if this prediction is undefined for the noise schedule."""
        if self.needs_signal and noise_schedule.max_ratio == float("inf"):
            raise UserError(
                f"prediction={self.name} does not determine x0 where the noise schedule reaches "
                "pure noise (alpha = 0): use prediction=sample, flow, v_prediction or edm"
            )


class Sample(Prediction):
    """Prediction of the clean image x0 itself, as in Hugging Face's tutorial."""

    name = "sample"

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x0

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output

    def x0_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * 0 + 1


class Epsilon(Prediction):
    """Prediction of the noise: Ho et al. 2020 (arXiv 2006.11239), eq. 14."""

    name = "epsilon"
    needs_signal = True

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - per_image(sigma, x_t) * output) / per_image(alpha, x_t)

    def x0_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / sigma) ** 2


class VPrediction(Prediction):
    """Prediction of v = alpha noise - sigma x0: Salimans & Ho 2022 (arXiv 2202.00512), sec. 4."""

    name = "v_prediction"

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return per_image(alpha, x0) * noise - per_image(sigma, x0) * x0

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # alpha x_t - sigma v = (alpha^2 + sigma^2) x0; alpha^2 + sigma^2 is 1 with VP only
        a, s = per_image(alpha, x_t), per_image(sigma, x_t)
        return (a * x_t - s * output) / (a**2 + s**2)

    def x0_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return ((alpha**2 + sigma**2) / sigma) ** 2


class Flow(Prediction):
    """Prediction of the velocity noise - x0: Liu et al. 2022 (arXiv 2209.03003), eq. 1."""

    name = "flow"

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise - x0

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # x_t - sigma u = (alpha + sigma) x0; alpha + sigma is 1 on the straight path only
        a, s = per_image(alpha, x_t), per_image(sigma, x_t)
        return (x_t - s * output) / (a + s)

    def x0_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return ((alpha + sigma) / sigma) ** 2


class Score(Prediction):
    """Prediction of the score, target -noise / sigma: Vincent 2011; Song & Ermon 2019, eq. 5.

    With `times_sigma` the network's output is sigma * score, as in NCSNv2 (Song & Ermon 2020, arXiv
    2006.09011, section 3.3). The size of the output then does not depend on the noise level.
    """

    name = "score"
    needs_signal = True

    def __init__(self, times_sigma: bool = False) -> None:
        self.times_sigma = times_sigma

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -noise if self.times_sigma else -noise / per_image(sigma, x0)

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        a, s = per_image(alpha, x_t), per_image(sigma, x_t)
        sigma_score = output if self.times_sigma else s * output
        return (x_t + s * sigma_score) / a

    def x0_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / (sigma if self.times_sigma else sigma**2)) ** 2


class EDM(Prediction):
    """EDM preconditioning, x0 = c_skip x_t + c_out output.

    Karras et al. 2022 (arXiv 2206.00364), eq. 7 and table 1. For any noise schedule, x_t / alpha
    and sigma / alpha replace x and sigma. The factors c_in and c_noise belong to the noise schedule
    (VESchedule). With sigma_data = 1 and a VP schedule the target is -v, with v of VPrediction.
    """

    name = "edm"

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise UserError(f"prediction.sigma_data={sigma_data}: expected a number above 0")
        self.sigma_data = sigma_data

    def _variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma**2 + (alpha * self.sigma_data) ** 2

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # (x0 - c_skip x_t) / c_out with x_t written out: no small difference is divided by sigma
        size = per_image(self._variance(alpha, sigma) ** -0.5, x0)
        a, s = per_image(alpha, x0), per_image(sigma, x0)
        return size * (s * x0 / self.sigma_data - a * self.sigma_data * noise)

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance = self._variance(alpha, sigma)
        c_skip = alpha * self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data * variance**-0.5
        return per_image(c_skip, x_t) * x_t + per_image(c_out, x_t) * output

    def x0_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._variance(alpha, sigma) / (sigma * self.sigma_data) ** 2

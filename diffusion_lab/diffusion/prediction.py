"""What the network is asked for, and how its answer becomes a clean image.

`target` is built from x0 and noise, never by dividing a residual by sigma; `to_clean` inverts it
given x_t = alpha x0 + sigma noise. Images are (B, C, H, W), alpha and sigma (B,).
"""

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, per_image
from diffusion_lab.errors import UserError


class Prediction(ABC):
    """A prediction target and its inverse."""

    name: str
    needs_signal = False  # to_clean divides by alpha

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should return for this pair."""

    @abstractmethod
    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean image that an output of the network stands for."""

    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise UserError where this prediction is undefined on that path."""
        if self.needs_signal and noise_schedule.reaches_pure_noise:
            raise UserError(
                f"prediction={self.name} does not determine x0 where the noise schedule reaches "
                "pure noise (alpha = 0): use prediction=sample, flow or v_prediction"
            )


class Sample(Prediction):
    """x0 itself, as the tutorial's networks."""

    name = "sample"

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x0

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output


class Epsilon(Prediction):
    """The noise: Ho et al. 2020 (arXiv 2006.11239), eq. 14."""

    name = "epsilon"
    needs_signal = True

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - per_image(sigma, x_t) * output) / per_image(alpha, x_t)


class VPrediction(Prediction):
    """v = alpha noise - sigma x0: Salimans & Ho 2022 (arXiv 2202.00512), section 4."""

    name = "v_prediction"

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return per_image(alpha, x0) * noise - per_image(sigma, x0) * x0

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # alpha x_t - sigma v = (alpha^2 + sigma^2) x0, and the sum is 1 on VP paths only
        a, s = per_image(alpha, x_t), per_image(sigma, x_t)
        return (a * x_t - s * output) / (a**2 + s**2)


class Flow(Prediction):
    """noise - x0, the velocity of the straight path: Liu et al. 2022 (arXiv 2209.03003), eq. 1."""

    name = "flow"

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise - x0

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # x_t - sigma u = (alpha + sigma) x0, and the sum is 1 on the straight path only
        a, s = per_image(alpha, x_t), per_image(sigma, x_t)
        return (x_t - s * output) / (a + s)

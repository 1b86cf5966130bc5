"""Loss weightings by noise level. Errors, weights, alpha and sigma are per image, (B,).

A weight multiplies the squared error of the network's own target. Where the literature defines a
weighting on the x0 loss, `weight` divides it by the prediction's x0_weight. The weighted loss is
then the same for every prediction.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion.prediction import Prediction
from diffusion_lab.errors import UserError


class Weighting(nn.Module, ABC):
    """Weighting of squared errors by noise level. A subclass has to define `weight`."""

    @abstractmethod
    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Return the factor on the squared error on the target. -> (B,)."""

    def forward(
        self, error: Tensor, alpha: Tensor, sigma: Tensor, prediction: Prediction
    ) -> Tensor:
        """Weight the squared errors on the target: `error` (B,) -> losses (B,)."""
        # a draw of t may be exactly 0, where weights are inf / inf
        return self.weight(alpha, sigma.clamp(min=1e-6), prediction) * error


class UniformWeighting(Weighting):
    """Plain mean squared error on the target."""

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        return torch.ones_like(sigma)


class MinSNR(Weighting):
    """Min-SNR weighting, min(SNR, gamma) on the x0 loss: Hang et al. 2023 (2303.09556), sec. 3.4.

    On the epsilon loss this is min(SNR, gamma) / SNR. On the v loss of a VP schedule this is
    min(SNR, gamma) / (SNR + 1).
    """

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        if gamma <= 0:
            raise UserError(f"weighting.gamma={gamma}: expected a number above 0")
        self.gamma = gamma

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        snr = (alpha / sigma) ** 2  # infinite for a clean image, for which the minimum is gamma
        return snr.clamp(max=self.gamma) / prediction.x0_weight(alpha, sigma)


class EDMWeighting(Weighting):
    """EDM's weighting of the x0 loss: Karras et al. 2022 (arXiv 2206.00364), table 1.

    The weight is (r^2 + sigma_data^2) / (r sigma_data)^2 at the noise level r = sigma / alpha. On
    the loss of the EDM prediction with the same sigma_data this weight is 1.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        super().__init__()
        if sigma_data <= 0:
            raise UserError(f"weighting.sigma_data={sigma_data}: expected a number above 0")
        self.sigma_data = sigma_data

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        on_x0 = (alpha / sigma) ** 2 + 1 / self.sigma_data**2
        return on_x0 / prediction.x0_weight(alpha, sigma)


class SigmaPower(Weighting):
    """Weighting sigma^power on the loss of the target.

    Song & Ermon 2019 (arXiv 1907.05600), section 4.2, use power 2 for the score.
    """

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        return sigma**self.power


class LearnedWeighting(Weighting):
    """Learned weighting: the loss is error / exp(u) + u with a learned function u of sigma / alpha.

    Karras et al. 2024 (arXiv 2312.02696), eq. 14-17. At the optimum u is the logarithm of the
    expected error at a noise level, so that every level contributes equally to the loss. The
    function u is linear in `channels` random Fourier features of log(sigma / alpha).
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.phases: Tensor
        self.register_buffer("frequencies", torch.randn(channels) * 2 * math.pi)
        self.register_buffer("phases", torch.rand(channels) * 2 * math.pi)
        self.out = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def uncertainty(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return u, the learned logarithm of the expected error at a noise level. -> (B,)."""
        c_noise = (sigma / alpha).clamp(1e-3, 1e3).log() / 4  # finite for every noise schedule
        features = torch.cos(c_noise[:, None] * self.frequencies + self.phases)
        # with 16-true precision the weights are half precision
        u = self.out((features * math.sqrt(2)).to(self.out.weight.dtype))
        return u.squeeze(1).to(c_noise.dtype)

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        return torch.exp(-self.uncertainty(alpha, sigma))

    def forward(
        self, error: Tensor, alpha: Tensor, sigma: Tensor, prediction: Prediction
    ) -> Tensor:
        u = self.uncertainty(alpha, sigma)
        return error * torch.exp(-u) + u

"""Denoisers that are known in closed form, to hold samplers and networks against.

Both are called like a run's denoiser, (x_t (B, C, H, W), t (B,)) -> E[x0 | x_t].
"""

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, per_image


class GaussianOracle:
    """The best denoiser of images whose pixels are independent N(mean, std^2); Gaussian noise."""

    def __init__(self, noise_schedule: NoiseSchedule, mean: float, std: float) -> None:
        self.noise_schedule = noise_schedule
        self.mean, self.std = mean, std

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x_t], by conditioning a joint Gaussian."""
        alpha = per_image(self.noise_schedule.alpha(t), x_t)
        sigma = per_image(self.noise_schedule.sigma(t), x_t)
        gain = alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def transport(self, noise: Tensor) -> Tensor:
        """Where the exact deterministic path takes unit noise from a path's pure-noise end."""
        return self.mean + self.std * noise


class ImagesOracle:
    """The best denoiser of a finite set of images (N, C, H, W), all equally likely; Gaussian noise.

    E[x0 | x_t] is their mean, weighted by softmax(-||x_t - alpha x0||^2 / (2 sigma^2)).
    """

    def __init__(self, noise_schedule: NoiseSchedule, images: Tensor) -> None:
        self.noise_schedule = noise_schedule
        self.images = images.flatten(1)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x_t]."""
        alpha = self.noise_schedule.alpha(t)[:, None, None]
        sigma = self.noise_schedule.sigma(t)[:, None].clamp(min=1e-6)
        x = x_t.flatten(1)
        distances = (x[:, None] - alpha * self.images).square().sum(2)  # (B, N)
        weights = torch.softmax(-distances / (2 * sigma**2), dim=1)
        return (weights @ self.images).view_as(x_t)

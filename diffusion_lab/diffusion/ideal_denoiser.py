"""Ideal denoisers in closed form, as a reference for samplers and networks.

Each is called like a trained denoiser: (x_t (B, C, H, W), t (B,)) -> E[x0 | x_t].
"""

from typing import Protocol

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, per_image
from diffusion_lab.errors import UserError

_CHUNK = 4096  # images of the set per matrix product


class GaussianOracle:
    """Ideal denoiser of images with independent pixels N(mean, std^2), for Gaussian noise."""

    def __init__(self, noise_schedule: NoiseSchedule, mean: float, std: float) -> None:
        self.noise_schedule = noise_schedule
        self.mean, self.std = mean, std

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return E[x0 | x_t] (B, C, H, W), by conditioning a joint Gaussian."""
        alpha = per_image(self.noise_schedule.alpha(t), x_t)
        sigma = per_image(self.noise_schedule.sigma(t), x_t)
        gain = alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def transport(self, noise: Tensor) -> Tensor:
        """Exact solution of the probability-flow ODE from pure noise of unit scale to images."""
        return self.mean + self.std * noise


class IdealDenoiser(Protocol):
    """Interface of ideal denoisers for a finite set of equally likely images.

    With labels (B,), each x0 is one of the images of its class.
    """

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return E[x0 | x_t], or E[x0 | x_t, label] with labels. -> (B, C, H, W)."""


class ImagesOracle:
    """Ideal denoiser of a finite set of images (N, C, H, W), for Gaussian noise.

    All images are equally likely. The result E[x0 | x_t] is their mean, weighted by softmax(-||x_t
    - alpha x0||^2 / (2 sigma^2)): Karras et al. 2022 (arXiv 2206.00364), eq. 57. The set is
    processed in chunks, so only B times 4096 weights are in memory besides the set. The labels (N,)
    are the classes of the images.
    """

    def __init__(
        self, noise_schedule: NoiseSchedule, images: Tensor, labels: Tensor | None = None
    ) -> None:
        self.noise_schedule = noise_schedule
        self.images, self.labels = images.flatten(1), labels

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return E[x0 | x_t] or E[x0 | x_t, label]; UserError for a class without images."""
        _check_classes(self.labels, labels)
        # float32 is too coarse at small sigma, where the terms of a distance nearly cancel
        dtype = torch.float32 if x_t.device.type == "mps" else torch.float64
        alpha = self.noise_schedule.alpha(t).to(dtype)[:, None]
        sigma = self.noise_schedule.sigma(t).to(dtype)[:, None].clamp(min=1e-6)
        x = x_t.flatten(1).to(dtype)

        # softmax-weighted mean, chunk by chunk, relative to the largest exponent so far
        largest = x.new_full((len(x), 1), torch.finfo(dtype).min)
        total, weighted = x.new_zeros(len(x), 1), torch.zeros_like(x)
        for first in range(0, len(self.images), _CHUNK):
            images = self.images[first : first + _CHUNK].to(x)
            # -||x_t - alpha x0||^2 / 2 without ||x_t||^2, which all images share
            exponents = alpha * (x @ images.T) - alpha**2 / 2 * images.square().sum(1)
            exponents /= sigma**2
            if labels is not None and self.labels is not None:
                other = labels[:, None] != self.labels[first : first + _CHUNK].to(labels)
                exponents.masked_fill_(other, -torch.inf)
            new = torch.maximum(largest, exponents.amax(1, keepdim=True))
            weights, shrunk = torch.exp(exponents - new), torch.exp(largest - new)
            total = total * shrunk + weights.sum(1, keepdim=True)
            weighted = weighted * shrunk + weights @ images
            largest = new
        return (weighted / total).view_as(x_t).to(x_t.dtype)


class UniformNoiseOracle:
    """Ideal denoiser of a finite set of images (N, C, H, W), for pixel noise uniform on [0, 1].

    The images that could have become x_t have 0 <= (x_t - alpha x0) / sigma <= 1 in every pixel and
    are equally likely. The result E[x0 | x_t] is their mean. If there is no such image, which
    happens only for an x_t made from an image outside the set, the result is nan.
    """

    def __init__(
        self, noise_schedule: NoiseSchedule, images: Tensor, labels: Tensor | None = None
    ) -> None:
        self.noise_schedule = noise_schedule
        self.images, self.labels = images.flatten(1), labels
        # pixels with the largest variance exclude the most images, so they are compared first
        self.order = self.images.var(0, correction=0).argsort(descending=True)

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return E[x0 | x_t] or E[x0 | x_t, label]; UserError for a class without images."""
        _check_classes(self.labels, labels)
        alpha, sigma = self.noise_schedule.alpha(t), self.noise_schedule.sigma(t)
        x = x_t.flatten(1)
        means = torch.full_like(x, torch.nan)
        for i in range(len(x)):
            left = torch.arange(len(self.images), device=x.device)
            if labels is not None and self.labels is not None:
                left = left[self.labels.to(labels) == labels[i]]
            for pixels in self.order.split(16):
                noise = x[i, pixels] - alpha[i] * self.images[left[:, None], pixels]
                # tolerance for the rounding of x_t in float32: less than 1e-6 for values up to 1
                possible = (noise >= -1e-6) & (noise <= sigma[i] + 1e-6)
                left = left[possible.all(1)]
                if not len(left):
                    break
            else:
                means[i] = self.images[left].mean(0)
        return means.view_as(x_t)


def ideal_denoiser(
    noise_schedule: NoiseSchedule, images: Tensor, labels: Tensor | None = None
) -> IdealDenoiser:
    """Make the ideal denoiser, x_t -> E[x0 | x_t], where x0 is one of `images` (N, C, H, W).

    `labels` (N,) are the classes of the images. The noise is that of the noise schedule.
    """
    oracle = ImagesOracle if noise_schedule.noise == "gaussian" else UniformNoiseOracle
    return oracle(noise_schedule, images, labels)


def _check_classes(there: Tensor | None, asked: Tensor | None) -> None:
    if asked is None:
        return
    known = set() if there is None else set(there.tolist())
    if missing := set(asked.tolist()) - known:
        raise UserError(
            f"the ideal denoiser has no images of the classes {sorted(missing)}: expected classes "
            f"from {sorted(known)}"
        )

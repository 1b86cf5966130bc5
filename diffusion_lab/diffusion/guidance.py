"""Classifier-free guidance and autoguidance: extrapolate away from a weaker denoiser."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule

LabelledDenoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x_t (B, C, H, W), t (B,), labels (B,) or None) -> estimate of the clean images."""

EVERYWHERE = (0.0, math.inf)


class GuidedDenoiser:
    """Guided denoiser of images with given labels: weak + guidance_scale (strong - weak).

    The labels are (B,), or (1,) for one class in all images. Without `weak`, the weak estimate
    is that of the same network at the null class, in one batched call with the strong one. This is
    classifier-free guidance: Ho & Salimans 2022 (arXiv 2207.12598), eq. 6, where guidance_scale is
    1 + w. A scale of 1 gives the conditional estimate alone, a scale of 0 the unconditional
    estimate. With `weak`, a worse denoiser of the same classes, the result is autoguidance: Karras
    et al. 2024 (arXiv 2406.02507), eq. 4. Guiding x0 is equivalent to guiding the noise, because at
    a given x_t differences of x0 and of the noise are proportional.

    Outside `interval`, (low, high) in sigma / alpha, the scale is 1: Kynkaanniemi et al. 2024
    (arXiv 2404.07724), eq. 5.
    """

    def __init__(
        self,
        denoise: LabelledDenoise,
        noise_schedule: NoiseSchedule,
        labels: Tensor | None,
        *,
        null_label: int | None = None,
        guidance_scale: float = 1.0,
        interval: tuple[float, float] = EVERYWHERE,
        weak: LabelledDenoise | None = None,
    ) -> None:
        self.denoise = denoise
        self.noise_schedule = noise_schedule
        self.labels = labels
        self.null_label = null_label
        self.guidance_scale = guidance_scale
        self.interval = interval
        self.weak = weak

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Denoise x_t (B, C, H, W) at times t (B,), all of which are equal. -> (B, C, H, W)."""
        labels = None if self.labels is None else self.labels.expand(len(x_t))
        scale = self.guidance_scale if self._inside(t) else 1.0
        if scale == 1:
            return self.denoise(x_t, t, labels)
        if self.weak is not None:
            strong, weak = self.denoise(x_t, t, labels), self.weak(x_t, t, labels)
        elif scale == 0:
            return self.denoise(x_t, t, self._null(x_t))
        else:
            assert labels is not None
            both = torch.cat([labels, self._null(x_t)])
            strong, weak = self.denoise(x_t.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2)
        return torch.lerp(weak, strong, scale)

    def _null(self, x_t: Tensor) -> Tensor:
        assert self.null_label is not None
        return torch.full((len(x_t),), self.null_label, device=x_t.device)

    def _inside(self, t: Tensor) -> bool:
        if self.interval == EVERYWHERE:
            return True
        ratio = self.noise_schedule.sigma(t[0]) / self.noise_schedule.alpha(t[0])
        return self.interval[0] <= ratio.item() <= self.interval[1]

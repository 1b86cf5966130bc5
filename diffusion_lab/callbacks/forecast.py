"""What it will cost to draw and judge images, from a few network calls."""

from collections.abc import Iterator
from itertools import islice
from time import monotonic

import torch
from torch import Tensor

from diffusion_lab.callbacks.evaluating import every_class
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import Denoise, Sampler, Step, sample_steps
from diffusion_lab.evaluation.extractor import Extractor
from diffusion_lab.modules import DiffusionModule

_ENOUGH = 0.3  # seconds of calls, after which a larger batch is not tried
_STEPS = 3  # of which the first, which may have to set things up, does not count


class Forecast:
    """Counts a sampler's network calls on a denoiser that does nothing, and times a few real ones.

    The module is used as it is: put it in evaluation mode before. Draws from no random stream but
    its own.
    """

    def __init__(self, module: DiffusionModule, data: ImageDataModule, sampler: Sampler) -> None:
        self.module, self.data, self.sampler = module, data, sampler
        self._calls = 0
        for _ in self._walk(1, lambda x_t, t: torch.zeros_like(x_t), "cpu"):
            pass
        self.num_calls = self._calls
        """For every image."""

    def _walk(self, count: int, denoise: Denoise, device: torch.device | str) -> Iterator[Step]:
        def counted(x_t: Tensor, t: Tensor) -> Tensor:
            self._calls += 1
            return denoise(x_t, t)

        return sample_steps(
            counted,
            self.module.noise_schedule,
            self.sampler,
            self.data.image_shape,
            num_images=count,
            seed=0,
            device=device,
        )

    def seconds_per_image(self, extractor: Extractor, batch_size: int) -> float:
        """To draw and judge one, in batches of this size or of the largest that is soon tried."""
        size, took = min(16, batch_size), 0.0
        while True:
            denoise = every_class(self.module, size)
            began, before = monotonic(), self._calls
            for step in islice(self._walk(size, denoise, self.module.device), _STEPS):
                pixels = self.data.value_range.decode(step.x_next).cpu()  # waits for the device
                ended, calls = monotonic(), self._calls - before
                per_call = (ended - began) / max(calls, 1)
                took += ended - began
                began, before = monotonic(), self._calls
            if took >= _ENOUGH or size == batch_size:
                break
            size, took = min(4 * size, batch_size), 0.0
        extractor(pixels[:1])  # the first call sets things up
        began = monotonic()
        extractor(pixels)
        return (per_call * self.num_calls + monotonic() - began) / size

"""Estimate the time for sampling and scoring images from a few network evaluations."""

from collections.abc import Iterator
from time import monotonic

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import Sampler, Step, sample_steps
from diffusion_lab.evaluation.features.extractor import Extractor
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.conditioning import Conditioning

_ENOUGH = 0.3  # seconds of sampling, after which no larger batch is tried
_STEPS = 3  # sampler steps; only the last one counts, because the first may include set-up


class Forecast:
    """Estimate of the cost of sampling: network evaluations (NFE) and seconds per image.

    Evaluations for guidance are included. The caller puts the module into evaluation mode first.
    The global random states do not change.
    """

    def __init__(
        self,
        module: DiffusionModule,
        data: ImageDataModule,
        sampler: Sampler,
        conditioning: Conditioning | None = None,
    ) -> None:
        self.module, self.data, self.sampler = module, data, sampler
        self.conditioning = conditioning or Conditioning.of(module)
        self._calls = self.conditioning.network_calls(
            sampler, module.noise_schedule, data.value_shape
        )
        self.num_calls = sum(self._calls)
        """NFE per image; with guidance, conditional and unconditional evaluations both count."""

    def _steps(self, count: int) -> Iterator[Step]:
        return sample_steps(
            self.conditioning.denoiser(self.module, 0, count),
            self.module.noise_schedule,
            self.sampler,
            self.data.value_shape,
            num_images=count,
            seed=0,
            device=self.module.device,
        )

    def seconds_per_image(self, extractor: Extractor, batch_size: int) -> float:
        """Measure the seconds for sampling an image and extracting its features.

        Batches from 16 images up to `batch_size` are tried, until one takes at least 0.3 seconds.
        """
        size, took = min(16, batch_size), 0.0
        while True:
            began = monotonic()
            for calls, step in zip(self._calls[:_STEPS], self._steps(size), strict=False):
                pixels = self.data.value_range.decode(step.x_next).cpu()  # waits for the device
                ended = monotonic()
                per_call = (ended - began) / max(calls, 1)
                took += ended - began
                began = monotonic()
            if took >= _ENOUGH or size == batch_size:
                break
            size, took = min(4 * size, batch_size), 0.0
        extractor(pixels[:1])  # the first call includes set-up
        began = monotonic()
        extractor(pixels)
        return (per_call * self.num_calls + monotonic() - began) / size

"""Sample a set of images to score, and measure its time and network evaluations."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from diffusion_lab.diffusion import Sampler
from diffusion_lab.runs.load import Run
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.system.precision import FULL


@dataclass(frozen=True)
class SampleSet:
    """A set of images to score; `seconds` and `num_calls` are None for images from a file."""

    images: Tensor
    """uint8 (N, C, H, W), on the CPU."""
    asked: Tensor | None
    """Intended class of each image, (N,); None if unconditional or conditioned on clusters."""
    seconds: float | None = None
    num_calls: float | None = None
    """NFE per image; both branches of guidance and the weaker network of autoguidance count."""


@contextmanager
def counting(*networks: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the images that the networks evaluate; yield a function that returns the count.

    The count comes from forward hooks of the networks, which no sampler can bypass.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal total
        total += len(inputs[0])

    handles = [network.register_forward_pre_hook(count) for network in networks]
    try:
        yield lambda: total
    finally:
        for handle in handles:
            handle.remove()


def draw_set(
    run: Run,
    sampler: Sampler,
    conditioning: Conditioning,
    *,
    num_samples: int,
    seed: int,
    batch_size: int,
    precision: str = FULL,
) -> SampleSet:
    """Sample a set of images, and measure the seconds and the NFE per image.

    The images are the ones that scripts/sample.py samples with the same seed.
    """
    networks = {run.module.network} | (
        {conditioning.weak.network} if conditioning.weak is not None else set()
    )
    with counting(*networks) as evaluated:
        began = time.perf_counter()
        images = run.sample(
            num_samples,
            seed=seed,
            sampler=sampler,
            conditioning=conditioning,
            batch_size=batch_size,
            precision=precision,
        )
        seconds = time.perf_counter() - began
    # the extractor does not know clusters as classes
    asked = None if run.has_clusters else conditioning.labels_of(0, num_samples)
    return SampleSet(images, asked, seconds, evaluated() / num_samples)

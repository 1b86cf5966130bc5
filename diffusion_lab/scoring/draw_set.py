"""Images of a run as they are to be scored, with what they cost."""

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
    """A set of images; what they cost is None where they come from a file."""

    images: Tensor
    """uint8 (N, C, H, W), on the CPU."""
    asked: Tensor | None
    """The class that each was asked to be, (N,); None for no class."""
    seconds: float | None = None
    num_calls: float | None = None
    """Of the network, and of the one of autoguidance, for an image; both branches count."""


@contextmanager
def counting(*networks: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the images that networks see, in the networks themselves: no sampler can miscount."""
    seen = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    handles = [network.register_forward_pre_hook(count) for network in networks]
    try:
        yield lambda: seen
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
    """Draw the images that scripts/sample.py would, and count what they cost."""
    networks = {run.module.network} | (
        {conditioning.weak.network} if conditioning.weak is not None else set()
    )
    with counting(*networks) as seen:
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
    # clusters are no classes to judge by
    asked = None if run.has_clusters else conditioning.labels_of(0, num_samples)
    return SampleSet(images, asked, seconds, seen() / num_samples)

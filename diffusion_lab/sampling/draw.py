"""Sample images from noise to pixels, batch by batch."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import Sampler, Step, sample_steps
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.progress import advance
from diffusion_lab.system.precision import FULL, drawing_in

log = logging.getLogger(__name__)

MAX_FRAMES = 60  # recorded steps, the frames of the animation
SHOWN = 64  # images in the grid and the animation
MANY = 2000  # points in the animation


def draw(
    module: DiffusionModule,
    sampler: Sampler,
    image_shape: tuple[int, int, int],
    value_range: ValueRange,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    conditioning: Conditioning | None = None,
    precision: str = FULL,
) -> tuple[Tensor, list[Step]]:
    """Sample uint8 images (N, C, H, W), and record some steps of the first images.

    Returns the images and up to MAX_FRAMES sampler steps of the first SHOWN images. Data of an
    unbounded range are float32, and the steps are those of the first MANY of them. Image k depends
    only on the seed and k. A batch that does not fit into a GPU's memory is sampled in halves. The
    network computes in `precision`, the sampler in float32. Raises UserError for numbers below 1,
    an unknown precision, and images that are not finite, because the conversion to pixels would
    hide such values.
    """
    for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name}={value}: expected at least 1")
    conditioning = conditioning or Conditioning()
    images: list[Tensor] = []
    recorded: list[Step] = []
    shown = SHOWN if value_range.is_pixels else MANY
    bar = tqdm(total=num_samples, unit=" images", disable=None, leave=False)  # on terminals only
    while (first := sum(map(len, images))) < num_samples:
        count = min(batch_size, num_samples - first)
        try:
            steps = sample_steps(
                conditioning.denoiser(module, first, count),
                module.noise_schedule,
                sampler,
                image_shape,
                num_images=count,
                seed=seed,
                first=first,
                device=module.device,
            )
            with drawing_in(precision, module.device):
                wanted = first == 0 or (first < shown and not value_range.is_pixels)
                num_steps = sampler.num_steps if wanted else None
                last, frames = _run_sampler(steps, num_steps, shown - first)
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            batch_size = count // 2
            log.warning(
                "out of memory for %d images at once: continuing with %d", count, batch_size
            )
            continue
        recorded = _joined(recorded, frames)
        _check_finite(last, first, sampler)
        images.append(value_range.decode(last).cpu())
        bar.update(count)
    bar.close()
    return torch.cat(images), recorded


@torch.inference_mode()
def _run_sampler(
    steps: Iterator[Step], num_steps: int | None, shown: int
) -> tuple[Tensor, list[Step]]:
    """Run all sampler steps; return the final images and steps of the first `shown` images.

    `num_steps` is the number of sampler steps, of which at most MAX_FRAMES are recorded. None
    means that no steps are recorded.
    """
    every = num_steps and -(-num_steps // MAX_FRAMES)
    recorded: list[Step] = []
    for i, step in enumerate(steps):
        advance(len(step.x_next))
        if every and i % every == 0:
            recorded.append(Step(step.t.cpu(), *(tensor[:shown].cpu() for tensor in step[1:])))
    return step.x_next, recorded


def _joined(recorded: list[Step], frames: list[Step]) -> list[Step]:
    """Append the recorded steps of a further batch to those of the batches before."""
    if not recorded or not frames:
        return recorded or frames
    return [
        Step(before.t, *(torch.cat(pair) for pair in zip(before[1:], after[1:], strict=True)))
        for before, after in zip(recorded, frames, strict=True)
    ]


def _check_finite(images: Tensor, first: int, sampler: Sampler) -> None:
    """Raise UserError if a value of `images` (N, C, H, W) is not finite.

    `first` is the index of the first of these images, for the message.
    """
    finite = images.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        broken = first + int(torch.nonzero(~finite)[0])
        raise UserError(
            f"image {broken} is not finite after {sampler.name} with {sampler.num_steps} steps: "
            "either the run diverged (see its metrics.json), or the sampler exceeds the range of "
            "float32; try an earlier checkpoint, for example checkpoint=best, or another sampler, "
            "for example sampler=blend"
        )

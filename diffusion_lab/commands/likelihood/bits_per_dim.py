"""Bits per dimension of images under a run, by the ODE or by the variational bound."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import Denoise
from diffusion_lab.diffusion.likelihood.ode import Progress, log_density, rademacher
from diffusion_lab.diffusion.likelihood.variational_bound import (
    Bound,
    check_bound,
    variational_bound,
)
from diffusion_lab.diffusion.samplers.base import image_generators
from diffusion_lab.runs.load import Run

LEVELS = 256
EXACT_DIMS = 16


@dataclass(frozen=True)
class Images:
    """Images of a split, with their labels."""

    indices: list[int]
    """Indices of the images in the split, (N,)."""
    pixels: Tensor
    """(N, C, H, W): uint8, or real numbers of an unbounded range."""
    labels: Tensor | None
    """Classes to condition the denoiser on, int64 (N,); None for no class."""
    true_density: Tensor | None = None
    """Bits per dimension of the distribution that they were drawn from, (N,); None if unknown."""

    def batches(self, size: int) -> Iterator["Images"]:
        """Yield the images in batches of up to `size`."""
        for first in range(0, len(self.indices), size):
            part = slice(first, first + size)
            labels = None if self.labels is None else self.labels[part]
            yield Images(self.indices[part], self.pixels[part], labels)

    def denoiser(self, run: Run) -> Denoise:
        """Return the run's denoiser, conditioned on these images' labels."""
        if self.labels is None:
            return run.module.denoise
        return partial(run.module.denoise, labels=self.labels.to(run.module.device))

    def generators(self, seed: int) -> list[torch.Generator]:
        """Create a generator for each image, which depends on the seed and the index only."""
        return [image_generators(seed, index, 1)[0] for index in self.indices]


def dequantise(pixels: Tensor, uniform: Tensor, value_range: ValueRange) -> Tensor:
    """Uniform dequantisation: spread each pixel over the values that are rounded to it.

    pixels p uint8 and uniform in [0, 1), both (..., C, H, W) -> values p - 1/2 to p + 1/2 in the
    network's range. `value_range.decode` gives back the pixels, so that the integral of a density
    over these values is the probability that a sample is saved as this image. (The usual
    (p + u) / 256 is for networks trained on such values; it differs from the values p / 255 of this
    training by up to half a level.)
    """
    return value_range.encode(pixels + uniform - 0.5)


def level_width(value_range: ValueRange) -> float:
    """Return the width of a pixel level in the network's value range.

    It is 1 for real numbers, whose bits per dimension are those of a density.
    """
    return (value_range.high - value_range.low) / (LEVELS - 1) if value_range.is_pixels else 1.0


def has_exact_trace(run: Run) -> bool:
    """Return True for data of so few numbers that the trace of the Jacobian is computed exactly."""
    return not run.value_range.is_pixels and math.prod(run.image_shape) <= EXACT_DIMS


def _exact_probes(shape: tuple[int, int, int], count: int) -> Tensor:
    """Return probes whose mean of v^T J v is the trace of J: unit vectors times sqrt(d).

    shape (C, H, W), d = C H W -> (d, count, C, H, W).
    """
    dims = math.prod(shape)
    vectors = math.sqrt(dims) * torch.eye(dims).view(dims, 1, *shape)
    return vectors.expand(dims, count, *shape)


def _part(progress: Progress, done: float, size: float) -> Progress:
    """Return a callback for the fraction done of the next `size` images, after `done` images."""
    return lambda fraction: progress(done + fraction * size)


def bits_by_ode(
    run: Run,
    images: Images,
    progress: Progress,
    *,
    start_ratio: float,
    tolerance: float,
    probes: int,
    draws: int,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """Compute -log2 of the density at the start level, for uniformly dequantised images.

    By Jensen's inequality the mean over the dequantisation noise is at least -log2 P(image) of a
    sampler that stops at this level. Real numbers (of an unbounded range) have a density as they
    are, and are not dequantised; for points the trace is exact and `probes` has no effect.
    """
    shape, dims, exact = run.image_shape, math.prod(run.image_shape), has_exact_trace(run)
    bits: list[Tensor] = []
    calls: list[Tensor] = []
    done = 0.0
    for batch in images.batches(batch_size):
        generators = batch.generators(seed)
        of_draws = []
        for _ in range(draws):
            values = run.value_range.encode(batch.pixels)
            if run.value_range.is_pixels:
                uniform = torch.stack([torch.rand(shape, generator=g) for g in generators])
                values = dequantise(batch.pixels, uniform, run.value_range)
            size = len(values) / draws
            density = log_density(
                batch.denoiser(run),
                run.module.noise_schedule,
                values.to(run.module.device),
                _exact_probes(shape, len(values))
                if exact
                else rademacher((probes, *shape), generators),
                start_ratio=start_ratio,
                tolerance=tolerance,
                progress=_part(progress, done, size),
            )
            done += size
            nats = -density.log_density / dims - math.log(level_width(run.value_range))
            nats = nats.mean(0, keepdim=True) if exact else nats
            of_draws.append(nats / math.log(2))
            calls.append(density.num_calls)
        bits.append(torch.stack(of_draws))
    every, num_calls = torch.cat(bits, dim=2), torch.cat(calls)  # (draws, probes, images)
    return summary(every.mean((0, 1))) | {
        "tolerance": tolerance,
        "start_ratio": start_ratio,
        "probes": probes,
        "probe_std": _pooled_std(every, 1),
        "draws": draws,
        "draw_std": _pooled_std(every.mean(1, keepdim=True), 0),
        "num_calls": {
            "mean": num_calls.double().mean().item(),
            "min": int(num_calls.min()),
            "max": int(num_calls.max()),
        },
        "per_image": every.mean((0, 1)).tolist(),
    }


def bits_by_bound(
    run: Run,
    images: Images,
    progress: Progress,
    *,
    variance: str,
    num_timesteps: int | None,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """Compute the variational bound, with x0 estimates clipped to the range as in sampler=ddpm."""
    schedule = check_bound(run.module.noise_schedule, variance, num_timesteps)
    ends = (run.value_range.low, run.value_range.high)
    unit = math.prod(run.image_shape) * math.log(2)
    bounds: list[Bound] = []
    done = 0
    for batch in images.batches(batch_size):
        bounds.append(
            variational_bound(
                _clipped(batch.denoiser(run), *ends),
                schedule,
                run.value_range.encode(batch.pixels).to(run.module.device),
                batch.generators(seed),
                value_range=ends,
                variance=variance,
                num_timesteps=num_timesteps,
                progress=_part(progress, done, len(batch.indices)),
            )
        )
        done += len(batch.indices)
    terms = Bound(*(torch.cat(values) / unit for values in zip(*bounds, strict=True)))
    of_timesteps = schedule.num_train_timesteps - 1
    return summary(terms.total) | {
        "terms": {name: values.mean().item() for name, values in terms._asdict().items()},
        "variance": variance,
        "num_timesteps": num_timesteps or of_timesteps,
        "of_timesteps": of_timesteps,
        "per_image": terms.total.tolist(),
    }


def _clipped(denoise: Denoise, low: float, high: float) -> Denoise:
    return lambda x_t, t: denoise(x_t, t).clamp(low, high)


def summary(bits: Tensor) -> dict[str, Any]:
    """Return the mean of bits (N,) and its standard error, which is None for a single image."""
    error = bits.std().item() / math.sqrt(len(bits)) if len(bits) > 1 else None
    return {"bits_per_dim": bits.mean().item(), "standard_error": error}


def _pooled_std(bits: Tensor, dim: int) -> float | None:
    """Return the standard deviation along `dim`, pooled over the others; None for size 1."""
    return bits.var(dim).mean().sqrt().item() if bits.shape[dim] > 1 else None

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
        """Create a random generator for each image, seeded by `seed` and the image's index only."""
        return [image_generators(seed, index, 1)[0] for index in self.indices]


def dequantise(pixels: Tensor, uniform: Tensor, value_range: ValueRange) -> Tensor:
    """Dequantise pixels: add uniform noise one pixel level wide, and encode for the network.

    `pixels` p is uint8 and `uniform` u is in [0, 1), both (..., C, H, W). The result is p + u - 1/2
    in the network's range, which `value_range.decode` rounds to p. So the integral of a density
    over all u is the probability that a sample is saved as this image. The usual (p + u) / 256 is
    for networks trained on such values. This project trains on p / 255, from which the mean of
    (p + u) / 256 differs by up to half a level.
    """
    return value_range.encode(pixels + uniform - 0.5)


def level_width(value_range: ValueRange) -> float:
    """Return the distance between neighbouring pixel levels in the network's value range.

    The distance is 1 for real numbers, whose bits per dimension are those of their density.
    """
    return (value_range.high - value_range.low) / (LEVELS - 1) if value_range.is_pixels else 1.0


def has_exact_trace(run: Run) -> bool:
    """Return True for data of so few numbers that the trace of the Jacobian is computed exactly."""
    return not run.value_range.is_pixels and math.prod(run.image_shape) <= EXACT_DIMS


def _exact_probes(shape: tuple[int, int, int], count: int) -> Tensor:
    """Return probes v whose mean of v^T J v is the trace of J: unit vectors times sqrt(d).

    The shape is (C, H, W), and d = C H W. -> (d, count, C, H, W).
    """
    dims = math.prod(shape)
    vectors = math.sqrt(dims) * torch.eye(dims).view(dims, 1, *shape)
    return vectors.expand(dims, count, *shape)


def _part(progress: Progress, done: float, size: float) -> Progress:
    """Return a callback for one batch, which takes the finished fraction of the batch.

    The callback calls `progress` with the number of images finished so far: `done` before the
    batch, and the fraction times `size` within the batch.
    """
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
    """Compute bits per dimension of uniformly dequantised images by the probability-flow ODE.

    The bits are -log2 of the density at the noise level `start_ratio` = sigma / alpha. By Jensen's
    inequality their mean over the dequantisation noise is an upper bound on -log2 P(image) of a
    sampler that stops at this level. Real numbers (of an unbounded range) have a density as they
    are, and are not dequantised. `probes` is the number of Hutchinson probes per image, without
    effect where the trace is exact, and `draws` the number of dequantisation noises per image.
    Returns the entries of likelihood.json.
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
    """Compute bits per dimension by the variational bound of a VP schedule.

    Estimates of x0 are clipped to the value range, as in sampler=ddpm. For each image
    `num_timesteps` terms of the bound are evaluated; None for all terms. Returns the entries of
    likelihood.json.
    """
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
    """Return the standard deviation along `dim`, pooled over the other dimensions.

    None if `dim` has size 1.
    """
    return bits.var(dim).mean().sqrt().item() if bits.shape[dim] > 1 else None

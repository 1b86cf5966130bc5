"""Figures of samples, sampling trajectories and noise schedules."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.data.latents.decoder import LatentDecoder
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import (
    NoiseSchedule,
    Step,
    VPSchedule,
)
from diffusion_lab.sampling.draw import SHOWN

MAX_CELL = 8
"""Largest number of images per class and scale in guidance.png."""
LATENT_FRAMES, LATENT_IMAGES = 10, 16
"""Largest number of frames and images of denoising.gif where a VAE decodes each of them."""
MAX_ROWS = 16
"""Largest number of classes in guidance.png, because there may be hundreds of clusters."""


def grid_columns(num_classes: int | None) -> int:
    """Return the number of images per row of a grid: about 8, and a multiple of `num_classes`.

    Each class then has its own columns. Without classes, or with more than 16 classes, a row has 8
    images.
    """
    if not num_classes or num_classes > 16:
        return 8
    return num_classes * max(1, round(8 / num_classes))


def noise_schedule_figure(schedule: NoiseSchedule) -> Figure:
    """Plot alpha and sigma of a noise schedule over t."""
    t = schedule.span(1000)
    curves = {"alpha": (t, schedule.alpha(t)), "sigma": (t, schedule.sigma(t))}
    return figures.line_plot(curves, xlabel="t")


def ddpm_noising_figure(pixels: Tensor) -> Figure:
    """Plot DDPM's noising of uint8 images (N, C, H, W), from no noise at the left to pure noise.

    Three rows: clean images, noised images clipped to the value range, noised images rescaled.
    """
    schedule, value_range = VPSchedule(), ValueRange("minus_one_one")
    x0 = value_range.encode(pixels)
    noise = schedule.draw_noise(x0, torch.Generator().manual_seed(0))
    noised = schedule.add_noise(x0, noise, schedule.span(len(x0)))
    low, high = noised.amin(), noised.amax()
    return figures.labelled_rows(
        {
            "clean": value_range.to_unit(x0),
            "noised, clipped": value_range.to_unit(noised),
            "noised": (noised - low) / (high - low),
        }
    )


def visible(step: Step, schedule: NoiseSchedule, value_range: ValueRange) -> Tensor:
    """Convert the noisy images x_t of a sampler step to [0, 1] for display."""
    return visible_at(step.x_t, step.t, schedule, value_range)


def visible_at(x_t: Tensor, t: Tensor, schedule: NoiseSchedule, value_range: ValueRange) -> Tensor:
    """Convert noisy images x_t at time t (a scalar) to [0, 1] for display.

    If alpha^2 + sigma^2 exceeds 1, as in VE schedules, x_t is first scaled to unit variance.
    """
    size = torch.hypot(schedule.alpha(t), schedule.sigma(t)).clamp(min=1)
    return value_range.to_unit(x_t / size)


def trajectory_figure(
    steps: Sequence[Step], schedule: NoiseSchedule, value_range: ValueRange
) -> Figure:
    """Plot the network input and the predicted clean images, one row per sampler step."""
    unit = value_range.to_unit
    return figures.trajectory(
        [visible(step, schedule, value_range) for step in steps],
        [unit(step.denoised) for step in steps],
        [f"t = {step.t.item():.4g}" for step in steps],
    )


def write_figures(
    out: Path,
    images: Tensor,
    steps: Sequence[Step],
    schedule: NoiseSchedule,
    value_range: ValueRange,
    trajectory_steps: int,
    nrow: int,
) -> None:
    """Write samples.png, denoising.gif and trajectory.png for uint8 images (N, C, H, W).

    `steps` are the recorded steps of the first images; `trajectory_steps` of them are shown in
    trajectory.png. Grids have `nrow` images per row.
    """
    if isinstance(value_range, LatentDecoder):
        steps = [
            Step(step.t, *(part[:LATENT_IMAGES] for part in step[1:]))
            for step in _thinned(steps, LATENT_FRAMES)
        ]
    path = _thinned(steps, trajectory_steps)
    frames = [visible(step, schedule, value_range) for step in steps]
    final = images[:SHOWN].float() / 255
    figures.save_grid(final, out / "samples.png", nrow)
    figures.save_gif([*frames, final[: len(frames[0])]], out / "denoising.gif", nrow)
    figures.save_figure(trajectory_figure(path, schedule, value_range), out / "trajectory.png")


def _thinned(steps: Sequence[Step], most: int) -> list[Step]:
    """Pick at most this number of steps, evenly spaced, first and last included."""
    chosen = np.linspace(0, len(steps) - 1, min(most, len(steps))).round()
    return [steps[int(i)] for i in chosen]


def write_guidance_figure(
    path: Path,
    sets: Sequence[Tensor],
    classes: Sequence[int],
    guidance_scales: Sequence[float],
    kind: str,
) -> None:
    """Write a table of samples: one row per class, one column per guidance scale.

    `sets` has uint8 images (N, C, H, W) for each scale, sampled from the same noise; image k has
    class classes[k % len(classes)]. `kind` is "class" or "cluster". With a single image per class
    and a single scale, the classes are side by side.
    """
    each = max(1, min(MAX_CELL, 16 // len(sets), len(sets[0]) // len(classes)))
    rows = {
        f"{kind} {label}": [images[k :: len(classes)][:each].float() / 255 for images in sets]
        for k, label in enumerate(classes[: min(len(sets[0]), MAX_ROWS)])
    }
    scales = [f"scale {scale:g}" for scale in guidance_scales]
    if len(scales) == each == 1:
        table = {scales[0]: [row[0] for row in rows.values()]}
        figure = figures.labelled_table(table, list(rows))
    else:
        figure = figures.labelled_table(rows, scales)
    figures.save_figure(figure, path)

"""Figures of samples and of the way to them."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import (
    NoiseSchedule,
    Step,
    VPSchedule,
)


def grid_columns(num_classes: int | None) -> int:
    """Return the images in a row of a grid: about 8, a whole number of times all classes.

    So every class has its own columns. More than 16 classes, or none, have 8.
    """
    if not num_classes or num_classes > 16:
        return 8
    return num_classes * max(1, round(8 / num_classes))


def noise_schedule_figure(schedule: NoiseSchedule) -> Figure:
    """Alpha and sigma over the path."""
    t = schedule.span(1000)
    curves = {"alpha": (t, schedule.alpha(t)), "sigma": (t, schedule.sigma(t))}
    return figures.line_plot(curves, xlabel="t")


def ddpm_noising_figure(pixels: Tensor) -> Figure:
    """Three rows for uint8 images: clean, noised and clipped, noised and squeezed into view."""
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
    """x_t of a step in [0, 1]."""
    return visible_at(step.x_t, step.t, schedule, value_range)


def visible_at(x_t: Tensor, t: Tensor, schedule: NoiseSchedule, value_range: ValueRange) -> Tensor:
    """x_t at t () in [0, 1]; on a VE path, where it is far larger, scaled to unit variance."""
    size = torch.hypot(schedule.alpha(t), schedule.sigma(t)).clamp(min=1)
    return value_range.to_unit(x_t / size)


def trajectory_figure(
    steps: Sequence[Step], schedule: NoiseSchedule, value_range: ValueRange
) -> Figure:
    """Left what the network gets at each step, right what it predicts."""
    unit = value_range.to_unit
    return figures.trajectory(
        [visible(step, schedule, value_range) for step in steps],
        [unit(step.denoised) for step in steps],
        [f"t = {step.t.item():.4g}" for step in steps],
    )

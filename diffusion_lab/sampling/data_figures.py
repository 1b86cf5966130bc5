"""Figures of one kind of data, which every command draws through the same methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import BlendSampler, Sampler, Step
from diffusion_lab.evaluation.nearest import Nearest
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.figures import (
    grid_columns,
    trajectory_figure,
    write_figures,
    write_guidance_figure,
)

Solve = Callable[[Sampler, int], list[Step]]
"""(sampler, number of samples) -> all its steps, on the CPU."""
NEAREST = 10
"""Samples that are shown with their nearest training data."""


class DataFigures(ABC):
    """Figures of one kind of data. Samples are (N, C, H, W), as `ValueRange.decode` gives them."""

    @abstractmethod
    def write_samples(self, samples: Tensor, path: Path, num_classes: int | None) -> None:
        """Write a figure of samples; with classes, sample k has class k % num_classes."""

    @abstractmethod
    def write_sampling(
        self,
        out: Path,
        samples: Tensor,
        steps: Sequence[Step],
        module: DiffusionModule,
        trajectory_steps: int,
        num_classes: int | None,
    ) -> None:
        """Write samples.png, denoising.gif and trajectory.png, from recorded steps of sampling."""

    @abstractmethod
    def write_guidance(
        self,
        path: Path,
        sets: Sequence[Tensor],
        classes: Sequence[int],
        guidance_scales: Sequence[float],
        kind: str,
    ) -> None:
        """Write samples of each guidance scale; sample k has class classes[k % len(classes)]."""

    @abstractmethod
    def of_training(
        self,
        module: DiffusionModule,
        data: ImageDataModule,
        solve: Solve,
        sampler: Sampler,
        num_samples: int,
        trajectory_steps: int,
    ) -> Iterator[tuple[str, Figure | Tensor]]:
        """Yield the figures of a finished training by name; a tensor is a grid of images.

        One of them is called samples.
        """

    @abstractmethod
    def nearest(self, samples: Tensor, train: Tensor, neighbours: Nearest) -> Figure:
        """Plot the samples that are nearest to training data, and these."""


class ImageFigures(DataFigures):
    """Figures of images: grids of pixels."""

    def __init__(self, value_range: ValueRange) -> None:
        self.value_range = value_range

    def write_samples(self, samples: Tensor, path: Path, num_classes: int | None) -> None:
        """Write a grid of uint8 images."""
        figures.save_grid(samples.float() / 255, path, grid_columns(num_classes))

    def write_sampling(
        self,
        out: Path,
        samples: Tensor,
        steps: Sequence[Step],
        module: DiffusionModule,
        trajectory_steps: int,
        num_classes: int | None,
    ) -> None:
        """Write grids of the samples, of all steps, and of some of them."""
        nrow, schedule = grid_columns(num_classes), module.noise_schedule
        write_figures(out, samples, steps, schedule, self.value_range, trajectory_steps, nrow)

    def write_guidance(
        self,
        path: Path,
        sets: Sequence[Tensor],
        classes: Sequence[int],
        guidance_scales: Sequence[float],
        kind: str,
    ) -> None:
        """Write a table of images, a row for each class and a column for each scale."""
        write_guidance_figure(path, sets, classes, guidance_scales, kind)

    def of_training(
        self,
        module: DiffusionModule,
        data: ImageDataModule,
        solve: Solve,
        sampler: Sampler,
        num_samples: int,
        trajectory_steps: int,
    ) -> Iterator[tuple[str, Figure | Tensor]]:
        """Yield data, corruption, predictions, trajectory and samples."""
        unit, schedule = self.value_range.to_unit, module.noise_schedule
        x0, labels = data.examples(8)
        t = schedule.span(len(x0))
        amounts = [f"t = {value:.2g}" if value <= 1 else f"t = {value}" for value in t.tolist()]
        x_t = schedule.add_noise(x0, schedule.draw_noise(x0, torch.Generator().manual_seed(0)), t)
        denoised = module.denoise(
            x_t.to(module.device),
            t.to(module.device),
            module.network_labels(labels.to(module.device)),
        ).cpu()
        yield "data", figures.image_row(unit(x0))
        yield "corruption", figures.image_row(unit(x_t), labels=amounts)
        yield (
            "predictions",
            figures.labelled_rows(
                {"input": unit(x0), "corrupted": unit(x_t), "predicted x0": unit(denoised)}
            ),
        )
        path = solve(BlendSampler(trajectory_steps), 8)
        yield "trajectory", trajectory_figure(path, schedule, self.value_range)
        yield "samples", unit(solve(sampler, num_samples)[-1].x_next)

    def nearest(self, samples: Tensor, train: Tensor, neighbours: Nearest) -> Figure:
        """Plot the samples with the smallest distances above their nearest training images."""
        order = neighbours.order()[:NEAREST]
        images = [samples[k][None].float() / 255 for k in order]
        twins = [train[neighbours.index[k]][None].float() / 255 for k in order]
        return figures.labelled_table(
            {"sample": images, "nearest training image": twins},
            [f"{neighbours.distance[k]:.2f}" for k in order],
            "samples nearest to a training image, and the distance",
        )

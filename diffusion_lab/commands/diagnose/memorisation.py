"""Memorisation: distances of a run's samples to the nearest training images."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion_lab import figures
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.nearest import Nearest, closeness, nearest
from diffusion_lab.sampling.progress import advance, planned_work, times
from diffusion_lab.system.atomic import replacing

Describe = Callable[[Tensor], NDArray[np.floating]]
"""images (N, C, H, W) -> features (N, F), compared by Euclidean distance."""


def in_pixels(images: Tensor) -> NDArray[np.floating]:
    """Flatten uint8 images to pixels in [0, 1], others as they are: float32 (N, C * H * W)."""
    values: NDArray[np.floating] = images.flatten(1).numpy().astype(np.float32)
    return values / 255 if images.dtype == torch.uint8 else values


@dataclass(frozen=True)
class Memorisation:
    """Nearest training images of the samples and of held-out images."""

    samples: Nearest
    test: Nearest
    val: Nearest | None
    """None for a run without held-out training images (data.val_size=0)."""

    @property
    def measured(self) -> dict[str, Any]:
        """Statistics of the distances from images to their nearest training images.

        `samples`, and `val` for held-out training images, hold the results of `closeness` in
        comparison with test images. Samples that copy no training image are expected to have the
        values of `val`. `test_median` is the median distance of the test images.
        """
        result: dict[str, Any] = {"samples": closeness(self.samples, self.test)}
        result["val"] = None if self.val is None else closeness(self.val, self.test)
        result["test_median"] = float(np.median(self.test.distance))
        return result


def memorisation(
    samples: Tensor,
    data: ImageDataModule,
    *,
    num_held_out: int,
    seed: int,
    describe: Describe = in_pixels,
) -> Memorisation:
    """Find the training images nearest to `samples` (N, C, H, W), and to real images.

    The real images are up to `num_held_out` test images and as many validation images, chosen by
    the seed; the run was not trained on these. `describe` maps images to the features that are
    compared. Raises UserError for a run with a single training image.
    """
    if len(data.pixels("train")) < 2:
        raise UserError(
            "the run has one training image: expected at least two to measure memorisation; type "
            "parts=losses to measure the denoising errors only"
        )
    train = describe(data.pixels("train"))
    chosen = {split: _choose(data.pixels(split), num_held_out, seed) for split in ("test", "val")}
    queries = {"samples": samples, **chosen}
    searches: dict[str, Nearest] = {}
    total = sum(map(len, queries.values()))
    with (
        planned_work(f"searching {times(len(train), 'training image')} for the nearest", total),
        tqdm(total=total, unit=" searches", disable=None, leave=False) as bar,
    ):

        def counted(queries: int) -> None:
            bar.update(queries)
            advance(queries)

        for name, images in queries.items():
            if len(images):
                searches[name] = nearest(describe(images), train, counted)
    return Memorisation(searches["samples"], searches["test"], searches.get("val"))


def _choose(images: Tensor, count: int, seed: int) -> Tensor:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:count]]


def write_nearest(neighbours: Nearest, path: Path) -> None:
    """Write a CSV with the nearest training image of each sample, named by its index: train:3."""
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sample", "nearest", "distance", "second_distance"])
        for k, (index, *distances) in enumerate(
            zip(neighbours.index, neighbours.distance, neighbours.second, strict=True)
        ):
            rows.writerow([k, f"train:{index}", *map(float, distances)])


def distances_figure(neighbours: Mapping[str, Nearest], what: str) -> Figure:
    """Plot the fraction of samples and held-out images within each distance of a training image."""
    curves = {
        name: (np.sort(each.distance), (np.arange(len(each.distance)) + 1) / len(each.distance))
        for name, each in neighbours.items()
    }
    return figures.line_plot(curves, f"distance to the nearest training image, {what}", "fraction")

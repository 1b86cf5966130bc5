"""Whether a run's samples are copies of images it was trained on."""

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

SHOWN = 10
Describe = Callable[[Tensor], NDArray[np.floating]]
"""uint8 images (N, C, H, W) -> (N, F), between which distances are Euclidean."""


def in_pixels(images: Tensor) -> NDArray[np.floating]:
    """Pixels in [0, 1]. uint8 (N, C, H, W) -> float32 (N, C * H * W)."""
    values: NDArray[np.floating] = images.flatten(1).numpy().astype(np.float32) / 255
    return values


@dataclass(frozen=True)
class Memorisation:
    """How near samples and held-out images are to the training images."""

    samples: Nearest
    test: Nearest
    val: Nearest | None
    """None where the run held no training images out."""

    @property
    def measured(self) -> dict[str, Any]:
        """`closeness` of the samples to the training images beside the test images', and of `val`.

        Images of the training split that the run did not see show what new images give.
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
    """Search all training images for the nearest of every sample, uint8 (N, C, H, W).

    The same for at most `num_held_out` test images and as many held-out training images, chosen by
    the seed. Raises UserError for a run of one training image.
    """
    if len(data.pixels("train")) < 2:
        raise UserError("the run has one training image: nothing to tell a copy from")
    train = describe(data.pixels("train"))
    chosen = {split: _choose(data.pixels(split), num_held_out, seed) for split in ("test", "val")}
    queries = {"samples": samples, **chosen}
    found: dict[str, Nearest] = {}
    total = sum(map(len, queries.values()))
    with (
        planned_work(f"searching {times(len(train), 'training image')} for the nearest", total),
        tqdm(total=total, unit=" searches", disable=None, leave=False) as bar,
    ):

        def counted(searches: int) -> None:
            bar.update(searches)
            advance(searches)

        for name, images in queries.items():
            if len(images):
                found[name] = nearest(describe(images), train, counted)
    return Memorisation(found["samples"], found["test"], found.get("val"))


def _choose(images: Tensor, count: int, seed: int) -> Tensor:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:count]]


def write_nearest(found: Nearest, path: Path) -> None:
    """Write, per sample, its nearest training image as sample.py and edit.py count them."""
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sample", "nearest", "distance", "second_distance"])
        for k, (index, *distances) in enumerate(
            zip(found.index, found.distance, found.second, strict=True)
        ):
            rows.writerow([k, f"train:{index}", *map(float, distances)])


def _unit(image: Tensor) -> Tensor:
    return image[None].float() / 255


def nearest_figure(samples: Tensor, train: Tensor, found: Nearest) -> Figure:
    """The samples that are nearest to a training image over these, with their distances."""
    order = np.argsort(found.distance, kind="stable")[:SHOWN]
    images = [_unit(samples[k]) for k in order]
    twins = [_unit(train[found.index[k]]) for k in order]
    return figures.labelled_table(
        {"sample": images, "nearest training image": twins},
        [f"{found.distance[k]:.2f}" for k in order],
        "samples nearest to a training image, and the distance",
    )


def distances_figure(found: Mapping[str, Nearest], what: str) -> Figure:
    """The share of samples and of held-out images within a distance of a training image."""
    curves = {
        name: (np.sort(each.distance), (np.arange(len(each.distance)) + 1) / len(each.distance))
        for name, each in found.items()
    }
    return figures.line_plot(curves, f"distance to the nearest training image, {what}", "share")

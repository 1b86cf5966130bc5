"""Score samples that are not images: energy distance, and the exact density if known."""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.energy_distance import EnergyDistance
from diffusion_lab.evaluation.scorer import FLOOR_DRAWS, Judged, Scorer, summaries
from diffusion_lab.evaluation.statistics import Summary


class PointScorer(Scorer):
    """Score points (N, 2, 1, 1), or other real numbers (N, C, H, W), against the test split.

    `energy_distance` is that to all test points. If the distribution of the data is known, there is
    a second metric: the mean `log_density` of the samples, or for a bounded distribution the
    fraction of them on its `support`, where the density is above 0.
    """

    primary = "energy_distance"
    name = "coordinates"
    unit = "point"
    least = 2

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self.data, self.sha256 = images.name, images.sha256
        self.num_train, self.num_test = len(images.train_images), len(images.test_images)
        self._distance = EnergyDistance(flat(images.test_images))

    @property
    def against(self) -> str:
        """Line for the head of a table: the reference points."""
        return (
            f"coordinates, against {self.num_test:,} test points of {self.data} (sha256 "
            f"{self.sha256[:8]}); real-data baseline from training points"
        )

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raise UserError for samples of another shape than the data."""
        own = tuple(self.images.test_images.shape[1:])
        if tuple(image_shape) != own:
            given, wanted = ("x".join(map(str, shape)) for shape in (image_shape, own))
            raise UserError(
                f"the samples have the shape {given}, but {self.data} has {wanted}: expected "
                "samples of the shape of the data set; type data= with the data set of the samples"
            )

    def check_samples(self, images: Tensor) -> None:
        """Raise UserError for samples of another shape than the data."""
        self.check((images.shape[1], images.shape[2], images.shape[3]))

    def __call__(self, images: Tensor, asked: Tensor | None = None) -> Judged:
        """Score samples (N, C, H, W); the requested classes have no effect."""
        began = time.perf_counter()
        scores = {self.primary: self._distance(flat(images))}
        if (known := self.images.distribution) is not None:
            log_density = known.log_density(images.flatten(1))
            if known.bounded:
                scores["support"] = log_density.isfinite().double().mean().item()
            else:
                scores["log_density"] = log_density.mean().item()
        return Judged(scores, {"features": 0.0, "metrics": time.perf_counter() - began})

    def floor(self, num_samples: int) -> dict[str, Summary]:
        """Return the scores of num_samples random training points, or of all if there are fewer."""
        n = min(num_samples, self.num_train)
        scores = []
        for seed in range(FLOOR_DRAWS if n < self.num_train else 1):
            chosen = np.random.default_rng(seed).permutation(self.num_train)[:n]
            scores.append(self(self.images.train_images[chosen]).scores)
        return summaries(scores)

    def write_samples(self, images: Tensor, path: Path, shown: int) -> None:
        """Write a scatter plot of the samples over the real points."""
        figure = figures.scatter({"samples": images}, self.images.test_images)
        figures.save_figure(figure, path)


def flat(images: Tensor) -> NDArray[np.floating]:
    """Flatten (N, C, H, W) to float64 (N, C H W)."""
    values: NDArray[np.floating] = images.flatten(1).double().numpy()
    return values

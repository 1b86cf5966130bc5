"""Score samples against real data: images with a feature extractor and reference statistics."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_lab import figures
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import Extractor
from diffusion_lab.evaluation.features.reference import Reference
from diffusion_lab.evaluation.score import IMAGE_METRICS, FeatureScorer, bounds_of, floor
from diffusion_lab.evaluation.statistics import Summary, summary

FLOOR_DRAWS = 3
"""Number of random sets of real images in the baseline; 1 if all real images are used."""


@dataclass(frozen=True)
class Judged:
    """Scores of a set of images, and the time that scoring took."""

    scores: dict[str, float]
    seconds: dict[str, float]
    """Seconds for "features" and for "metrics"."""


class Scorer(ABC):
    """Score sets of samples of one kind of data against real ones."""

    primary: str
    """The metric by which samplers are ordered, one of METRICS of which lower is better."""
    name: str
    """Name of the feature extractor, or "coordinates" for points."""
    sha256: str
    """Hash of the extractor's weights, or of the points; scores of other hashes do not compare."""
    data: str
    """Name of the real data."""
    num_train: int
    """Number of real training images or points, for the baseline; 0 if there are none."""
    num_test: int
    """Number of real test images or points; 0 if only their moments are known."""
    unit = "image"
    """Word for one sample."""
    least: int
    """Smallest number of samples for which the primary metric is defined."""

    @property
    @abstractmethod
    def against(self) -> str:
        """Line for the head of a table: the features and the real data that scores refer to."""

    def about(self) -> dict[str, Any]:
        """Return the entries `extractor` and `reference` of evaluation.json."""
        return {
            "extractor": {"name": self.name, "sha256": self.sha256},
            "reference": {"data": self.data, "n": self.num_test or None},
        }

    @abstractmethod
    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raise UserError, before any sampling, for samples (C, H, W) that cannot be scored."""

    @abstractmethod
    def check_samples(self, images: Tensor) -> None:
        """Raise UserError for existing samples (N, C, H, W) that cannot be scored."""

    @abstractmethod
    def __call__(self, images: Tensor, asked: Tensor | None = None) -> Judged:
        """Score samples (N, C, H, W) with requested classes `asked` (N,), if any."""

    @abstractmethod
    def floor(self, num_samples: int) -> dict[str, Summary]:
        """Return the scores of num_samples real training images or points, or of all there are."""

    @abstractmethod
    def write_samples(self, images: Tensor, path: Path, shown: int) -> None:
        """Write a figure of samples (N, C, H, W); a grid has at most `shown` images."""


class ImageScorer(Scorer):
    """Score sets of images with an extractor against a reference.

    The primary metric is FID, or KID if there are too few real images for FID.

    Args:
        extractor: the feature extractor.
        reference: features of real images, or their moments, by the same extractor.
        padded: True to cut off the border that data.image_size= added to the images.

    Raises:
        UserError: if the reference was computed by another extractor.

    """

    def __init__(self, extractor: Extractor, reference: Reference, padded: bool = False) -> None:
        if reference.extractor_sha256 != extractor.sha256:
            raise UserError(
                f"the reference was computed by extractor {reference.extractor} (sha256 "
                f"{reference.extractor_sha256[:8]}), but the samples would be scored by "
                f"{extractor.name} ({extractor.sha256[:8]}): expected the same extractor"
            )
        self.extractor, self.reference, self.padded = extractor, reference, padded
        self.name, self.sha256, self.data = extractor.name, extractor.sha256, reference.data
        self.num_train, self.num_test = len(reference.train), len(reference.test)
        fid_needs = extractor.num_features + 1
        self.primary = "kid" if 0 < self.num_test < fid_needs else "fid"
        self.least = 2 if self.primary == "kid" else fid_needs
        self.scorer = FeatureScorer(reference)
        self._floors: dict[int, dict[str, Summary]] = {}

    @property
    def against(self) -> str:
        """Line for the head of a table: the extractor and the reference images."""
        real = (
            f"{self.num_test:,} test images of {self.data}; real-data baseline from training images"
            if self.num_test
            else f"moments of real images: {self.data}"
        )
        return f"extractor {self.name} (sha256 {self.sha256[:8]}), against {real}"

    def check_samples(self, images: Tensor) -> None:
        """Raise UserError for images that the extractor rejects."""
        self.extractor.fit(images)

    def write_samples(self, images: Tensor, path: Path, shown: int) -> None:
        """Write a grid of the first images."""
        figures.save_grid(images[:shown].float() / 255, path)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raise UserError, before any sampling, if the extractor rejects images (C, H, W)."""
        self.extractor.fit(torch.zeros(1, *image_shape, dtype=torch.uint8))

    def __call__(self, images: Tensor, asked: Tensor | None = None) -> Judged:
        """Score uint8 images (N, C, H, W) with requested classes `asked` (N,), if any."""
        began = time.perf_counter()
        if self.padded:
            images = self.extractor.unpad(images)
        with _bar(len(images), "images") as update:
            features = self.extractor(images, progress=update)
        half = time.perf_counter()
        with _bar(len(IMAGE_METRICS), "metrics") as update:
            scores = self.scorer(
                features,
                None if asked is None else asked.numpy(),
                progress=lambda name: update(1),
            )
        ended = time.perf_counter()
        return Judged(scores, {"features": half - began, "metrics": ended - half})

    def floor(self, num_samples: int) -> dict[str, Summary]:
        """Return the real-data baseline for num_samples images, or for all real images if fewer.

        The baseline is the score of a perfect model. It is empty for a reference of moments alone.
        """
        available = len(self.reference.train)
        if not available:
            return {}
        n = min(num_samples, available)
        if n in self._floors:
            return self._floors[n]
        seeds = range(FLOOR_DRAWS if n < available else 1)
        with _bar(len(seeds) * len(IMAGE_METRICS), "metrics of real images") as update:
            draws = floor(self.scorer, n, seeds, progress=lambda name: update(1))
        self._floors[n] = summaries(draws)
        return self._floors[n]


def summaries(scores: list[dict[str, float]]) -> dict[str, Summary]:
    """Summarise each metric over the scores of several sets of images."""
    return {name: summary([of[name] for of in scores], bounds_of(name)) for name in scores[0]}


@contextmanager
def _bar(total: int, unit: str) -> Iterator:
    """Show a progress bar with the remaining time, on terminals only."""
    with tqdm(total=total, unit=f" {unit}", disable=None, leave=False) as bar:
        yield bar.update

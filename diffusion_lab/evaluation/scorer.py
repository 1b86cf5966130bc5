"""The extractor and the real images that fit some data, and what they say of images."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import Extractor
from diffusion_lab.evaluation.features.reference import Reference
from diffusion_lab.evaluation.score import METRICS, FeatureScorer, bounds_of, floor
from diffusion_lab.evaluation.statistics import Summary, summary

FLOOR_DRAWS = 3
"""Of real training images, where there are more than are asked for."""


@dataclass(frozen=True)
class Judged:
    """What was found in a set of images."""

    scores: dict[str, float]
    seconds: dict[str, float]
    """For the features and for the metrics."""


class ImageScorer:
    """Scores sets of images by one extractor against one reference.

    Args:
        extractor: sees the images.
        reference: real images as it sees them.
        padded: whether images may be those of a run with data.image_size, whose border is cut off.

    Raises:
        UserError: if it is not this extractor that saw the images of the reference.

    """

    def __init__(self, extractor: Extractor, reference: Reference, padded: bool = False) -> None:
        if reference.extractor_sha256 != extractor.sha256:
            raise UserError(
                f"the real images were seen by extractor {reference.extractor} (sha256 "
                f"{reference.extractor_sha256[:8]}), the samples would be by {extractor.name} "
                f"({extractor.sha256[:8]}): expected the reference of the same extractor"
            )
        self.extractor, self.reference, self.padded = extractor, reference, padded
        self.scorer = FeatureScorer(reference)
        self._floors: dict[int, dict[str, Summary]] = {}

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raise UserError if the extractor does not take images (C, H, W), before any is drawn."""
        self.extractor.fit(torch.zeros(1, *image_shape, dtype=torch.uint8))

    def __call__(self, images: Tensor, asked: Tensor | None = None) -> Judged:
        """Score uint8 images (N, C, H, W); `asked` (N,) are the classes that they should be."""
        began = time.perf_counter()
        if self.padded:
            images = self.extractor.unpad(images)
        with _bar(len(images), "images seen") as update:
            features = self.extractor(images, progress=update)
        half = time.perf_counter()
        with _bar(len(METRICS), "metrics") as update:
            scores = self.scorer(
                features,
                None if asked is None else asked.numpy(),
                progress=lambda name: update(1),
            )
        ended = time.perf_counter()
        return Judged(scores, {"features": half - began, "metrics": ended - half})

    def floor(self, num_samples: int) -> dict[str, Summary]:
        """The scores of as many real training images, or of all there are of them if fewer."""
        there = len(self.reference.train)
        n = min(num_samples, there)
        if n in self._floors:
            return self._floors[n]
        seeds = range(FLOOR_DRAWS if n < there else 1)
        with _bar(len(seeds) * len(METRICS), "metrics of real images") as update:
            draws = floor(self.scorer, n, seeds, progress=lambda name: update(1))
        self._floors[n] = summaries(draws)
        return self._floors[n]


def summaries(scores: list[dict[str, float]]) -> dict[str, Summary]:
    """Each metric over several sets of images."""
    return {name: summary([of[name] for of in scores], bounds_of(name)) for name in scores[0]}


@contextmanager
def _bar(total: int, unit: str) -> Iterator:
    """A progress bar with the time left, on terminals only."""
    with tqdm(total=total, unit=f" {unit}", disable=None, leave=False) as bar:
        yield bar.update

"""Compute all metrics of a set of samples against the real images of a reference."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation import metrics
from diffusion_lab.evaluation.features.extractor import Features
from diffusion_lab.evaluation.features.reference import Reference
from diffusion_lab.evaluation.statistics import UNBOUNDED, Bounds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metric:
    """Title, direction and bounds of a metric."""

    title: str
    better: Literal["lower", "higher", "real"]
    """With "real", values nearer to the value of real images are better."""
    bounds: Bounds = UNBOUNDED
    """Lowest and highest possible value; intervals are cut at these."""


_FRACTION: Bounds = (0.0, 1.0)
_POSITIVE: Bounds = (0.0, math.inf)


IMAGE_METRICS = {
    "fid": Metric("FID", "lower", _POSITIVE),
    "kid": Metric("KID", "lower"),  # unbiased, so it may be below 0
    "precision": Metric("precision", "higher", _FRACTION),
    "recall": Metric("recall", "higher", _FRACTION),
    "density": Metric("density", "real", _POSITIVE),
    "coverage": Metric("coverage", "higher", _FRACTION),
    "class_entropy": Metric("class entropy (bits)", "real", _POSITIVE),
    "class_tv": Metric("class total variation", "lower", _FRACTION),
    "confidence": Metric("classifier confidence", "real", _FRACTION),
    "label_agreement": Metric("agreement with the label", "higher", _FRACTION),
}
POINT_METRICS = {
    "energy_distance": Metric("energy distance", "lower", _POSITIVE),
    "log_density": Metric("log density (nats)", "real"),
    "support": Metric("fraction on the support", "higher", _FRACTION),
}
METRICS = IMAGE_METRICS | POINT_METRICS


def bounds_of(metric: str) -> Bounds:
    """Return the bounds of a metric of METRICS, unbounded for other names."""
    return METRICS[metric].bounds if metric in METRICS else UNBOUNDED


_NEIGHBORS = (metrics.NUM_NEIGHBORS, metrics.NUM_NEIGHBORS_DENSITY)
_KINDS = {"values": "features", "probabilities": "classes"}


class FeatureScorer:
    """Score sets of samples against all test images of a reference.

    Terms that depend on the real images alone are computed once. FID has a positive bias that
    shrinks with the number of samples, so values at different numbers are not comparable. The
    function `floor` computes the baseline of real images at an equal number.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        y = reference.test.values
        self._within = metrics.mean_kernel_within(y) if reference.has_features else 0.0
        self._radii = metrics.squared_radii(y, _NEIGHBORS) if len(y) > max(_NEIGHBORS) else []
        self._warned: set[str] = set()

    def __call__(
        self,
        samples: Features,
        asked: NDArray[np.integer] | None = None,
        *,
        moments: metrics.Moments | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> dict[str, float]:
        """Return the metrics of the samples, keyed by the names of IMAGE_METRICS.

        FID needs more samples, and more real images, than there are features. Precision, recall,
        density and coverage need more images than their number of neighbours. With a reference of
        moments alone, only FID and the metrics of the samples alone are computed. Metrics that
        cannot be computed are left out, with a warning that is logged once.

        Args:
            samples: features of at least two images.
            asked: requested class of each sample, (N,).
            moments: exact moments of the samples, if the given features are rounded.
            progress: called with the name of each metric when it is computed.

        Raises:
            UserError: if features are not finite, if the number of features or classes differs from
                the reference's, if there are fewer than two samples, or if `asked` is not (N,).

        """
        self._check(samples, asked)
        x, y = samples.values, self.reference.test.values
        least = min(len(x), len(y)) if self.reference.has_features else len(x)
        scores: dict[str, float] = {}

        def add(**values: float) -> None:
            for name, value in values.items():
                scores[name] = value
                if progress is not None:
                    progress(name)

        if least > x.shape[1]:
            own = moments or metrics.Moments.of(x)
            add(fid=metrics.frechet_distance(own, self.reference.test_moments))
        if self.reference.has_features:
            within, between = metrics.mean_kernel_within(x), metrics.mean_kernel(x, y)
            add(kid=metrics.kid(within, self._within, between))
        if self._radii and least > max(_NEIGHBORS):
            (radii,) = metrics.squared_radii(x, _NEIGHBORS[:1])
            narrow, wide = self._radii
            four = metrics.precision_recall_density_coverage(x, y, radii, narrow, wide)
            add(**dict(zip(("precision", "recall", "density", "coverage"), four, strict=True)))
        if samples.probabilities.shape[1]:
            shares = metrics.class_shares(samples.probabilities)
            if shares.max() == 1:
                self._warn(f"all {len(x):,} samples are classified as {shares.argmax()}")
            add(class_entropy=metrics.entropy(shares))
            if self.reference.has_features:
                real_shares = metrics.class_shares(self.reference.test.probabilities)
                add(class_tv=metrics.total_variation(shares, real_shares))
            add(confidence=float(samples.probabilities.max(1).mean()))
            if asked is not None:
                right = samples.probabilities.argmax(1) == asked
                add(label_agreement=float(right.mean()))
        return scores

    def _check(self, samples: Features, asked: NDArray[np.integer] | None) -> None:
        n, dimensions = samples.values.shape
        for name in ("values", "probabilities"):
            given = getattr(samples, name).shape[1]
            expected = getattr(self.reference.test, name).shape[1]
            if given and given != expected:  # 0: an extractor without classes
                raise UserError(
                    f"the samples have {given} {_KINDS[name]}, but the reference of extractor "
                    f"{self.reference.extractor} has {expected}: "
                    "expected features of the same extractor"
                )
        if asked is not None and asked.shape != (n,):
            raise UserError(f"labels of shape {asked.shape} for {n} samples: expected shape ({n},)")
        if n < 2:
            raise UserError(f"num_samples={n}: expected at least 2 images to compare")
        if not (np.isfinite(samples.values).all() and np.isfinite(samples.probabilities).all()):
            raise UserError(
                "the features of the samples are not all finite: check the images and the extractor"
            )
        self._warn_of_gaps(n, dimensions)

    def _warn_of_gaps(self, n: int, dimensions: int) -> None:
        """Warn of the metrics that are left out for n samples of `dimensions` features."""
        if not self.reference.has_features:
            few = f"; FID needs more than {dimensions} samples, not {n}" * (n <= dimensions)
            self._warn(
                f"the reference {self.reference.data} has only moments of the real images: KID, "
                "precision, recall, density, coverage, class total variation and the real-data "
                f"baseline are left out{few}"
            )
            return
        real = len(self.reference.test)
        fewer = f"{n} samples" if n <= real else f"{real} real test images"
        if min(n, real) <= max(_NEIGHBORS):
            self._warn(
                f"{fewer}: only KID and the class metrics are computed, because FID needs more "
                f"than {dimensions} images, and precision, recall, density and coverage need more "
                f"than {max(_NEIGHBORS)}"
            )
        elif min(n, real) <= dimensions:
            self._warn(
                f"{fewer}: FID is left out, because it needs more than {dimensions} images (the "
                "number of features); all other metrics are computed"
            )

    def _warn(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            log.warning("%s", line)


def floor(
    scorer: FeatureScorer,
    n: int,
    seeds: Sequence[int],
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    """Return the real-data baseline: the metrics of n random training images, for each seed.

    The baseline is the score of a perfect model. Raises UserError if n is below 2 or above the
    number of training images in the reference.
    """
    reference = scorer.reference
    available = len(reference.train)
    if not 2 <= n <= available:
        raise UserError(
            f"num_samples={n}: expected a number from 2 to {available:,}, the number of real "
            "images for the baseline"
        )
    scores = []
    for seed in seeds:
        chosen = np.random.default_rng(seed).permutation(available)[:n]
        scores.append(
            scorer(
                reference.train[chosen],
                reference.train_labels[chosen],
                moments=reference.train_moments if n == available else None,
                progress=progress,
            )
        )
    return scores

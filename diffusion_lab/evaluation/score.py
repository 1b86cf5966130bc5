"""Every metric of a set of samples, against the real images of a reference."""

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
    """What a figure is called and which way it should go."""

    title: str
    better: Literal["lower", "higher", "real"]
    """"real" is the figure of real images, neither less nor more."""
    bounds: Bounds = UNBOUNDED
    """Lowest and highest possible value, at which intervals are cut off."""


_FRACTION: Bounds = (0.0, 1.0)
_POSITIVE: Bounds = (0.0, math.inf)


METRICS = {
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


def bounds_of(metric: str) -> Bounds:
    """Return the bounds of a metric by its name in METRICS, none of another."""
    return METRICS[metric].bounds if metric in METRICS else UNBOUNDED


_NEIGHBORS = (metrics.NUM_NEIGHBORS, metrics.NUM_NEIGHBORS_DENSITY)
_KINDS = {"values": "features", "probabilities": "classes"}


class FeatureScorer:
    """Scores sets of samples; what depends on the real images alone is computed once.

    Samples of any number are held against all test images of the reference. FID is too high by a
    bias that shrinks as they grow more, so figures at different numbers do not compare; `floor`
    shows what real images get at the same number.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        y = reference.test.values
        self._within = metrics.mean_kernel_within(y)
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
        """The metrics that can be had of these samples, by the names of METRICS.

        With no more samples, or real images, than features FID is left out, with no more than
        neighbours the four metrics of neighbourhoods; a warning says so, once.

        Args:
            samples: of two images at least.
            asked: the class that each should be, (N,).
            moments: of the samples, where they are known more exactly than their features.
            progress: told the name of each metric once it is known.

        Raises:
            UserError: for features that are not finite, of another number than the reference's, or
                of a single image; for another number of `asked`.

        """
        self._check(samples, asked)
        x, y = samples.values, self.reference.test.values
        least = min(len(x), len(y))
        scores: dict[str, float] = {}

        def found(**values: float) -> None:
            for name, value in values.items():
                scores[name] = value
                if progress is not None:
                    progress(name)

        if least > x.shape[1]:
            own = moments or metrics.Moments.of(x)
            found(fid=metrics.frechet_distance(own, self.reference.test_moments))
        found(
            kid=metrics.kid(metrics.mean_kernel_within(x), self._within, metrics.mean_kernel(x, y))
        )
        if least > max(_NEIGHBORS):
            (radii,) = metrics.squared_radii(x, _NEIGHBORS[:1])
            narrow, wide = self._radii
            four = metrics.precision_recall_density_coverage(x, y, radii, narrow, wide)
            found(**dict(zip(("precision", "recall", "density", "coverage"), four, strict=True)))
        if samples.probabilities.shape[1]:
            shares = metrics.class_shares(samples.probabilities)
            real_shares = metrics.class_shares(self.reference.test.probabilities)
            if shares.max() == 1:
                self._warn(f"all {len(x):,} samples look like class {shares.argmax()}")
            found(
                class_entropy=metrics.entropy(shares),
                class_tv=metrics.total_variation(shares, real_shares),
                confidence=float(samples.probabilities.max(1).mean()),
            )
            if asked is not None:
                right = samples.probabilities.argmax(1) == asked
                found(label_agreement=float(right.mean()))
        return scores

    def _check(self, samples: Features, asked: NDArray[np.integer] | None) -> None:
        n, dimensions = samples.values.shape
        for what in ("values", "probabilities"):
            found = getattr(samples, what).shape[1]
            expected = getattr(self.reference.test, what).shape[1]
            if found and found != expected:  # none: an extractor that tells no classes apart
                raise UserError(
                    f"the samples have {found} {_KINDS[what]}, the reference of "
                    f"{self.reference.extractor} has {expected}: "
                    "they were seen by different extractors"
                )
        if asked is not None and asked.shape != (n,):
            raise UserError(f"labels of shape {asked.shape} for {n} samples: expected one for each")
        if n < 2:
            raise UserError(f"num_samples={n}: expected at least 2 images to compare")
        if not (np.isfinite(samples.values).all() and np.isfinite(samples.probabilities).all()):
            raise UserError(
                "the features are not all finite: the images or the extractor are broken"
            )
        real = len(self.reference.test)
        fewer = f"{n} samples" if n <= real else f"{real} real test images"
        if min(n, real) <= max(_NEIGHBORS):
            self._warn(
                f"{fewer}: only KID and the class metrics stand; FID needs more than "
                f"{dimensions} of them, precision, recall, density and coverage more than "
                f"{max(_NEIGHBORS)}"
            )
        elif min(n, real) <= dimensions:
            self._warn(
                f"{fewer} are no more than the {dimensions} features, FID is left out; KID, "
                "precision, recall, density, coverage and the class metrics stand"
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
    """The metrics of n real training images, once for each seed that draws them: the best to hope.

    Raises UserError if the reference has fewer.
    """
    reference = scorer.reference
    there = len(reference.train)
    if not 2 <= n <= there:
        raise UserError(f"num_samples={n}: the floor needs from 2 to {there:,} real images")
    scores = []
    for seed in seeds:
        chosen = np.random.default_rng(seed).permutation(there)[:n]
        scores.append(
            scorer(
                reference.train[chosen],
                reference.train_labels[chosen],
                moments=reference.train_moments if n == there else None,
                progress=progress,
            )
        )
    return scores

"""Distances of images to their nearest training images, a test of memorisation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.neighbors import NearestNeighbors

_BATCH = 500
PERCENTILES = (1.0, 5.0, 50.0)
"""Percentiles of the held-out images' distances, used as thresholds in `closeness`."""


@dataclass(frozen=True)
class Nearest:
    """Distances of M queries to their two nearest references."""

    distance: NDArray[np.float64]
    """(M,) Euclidean distance to the nearest reference."""
    second: NDArray[np.float64]
    """(M,) distance to the second nearest reference."""
    index: NDArray[np.int64]
    """(M,) index of the nearest reference."""

    def order(self) -> NDArray[np.int64]:
        """Return the indices of the queries by increasing distance, (M,)."""
        return np.argsort(self.distance, kind="stable")


def nearest(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    progress: Callable[[int], None] | None = None,
) -> Nearest:
    """Find the two nearest references of each query: queries (M, F), references (N, F), N > 1.

    Neighbours come from scikit-learn's brute-force search in float64; their distances are computed
    again from the differences, which is more accurate. Calls progress(k) after each batch of k
    queries.
    """
    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(references)
    indices: list[NDArray[np.int64]] = []
    for first in range(0, len(queries), _BATCH):
        batch = queries[first : first + _BATCH]
        indices.append(search.kneighbors(batch, return_distance=False))
        if progress is not None:
            progress(len(batch))
    index = np.concatenate(indices) if indices else np.empty((0, 2), dtype=np.int64)
    both = [_distance(queries, references[index[:, k]]) for k in (0, 1)]
    return Nearest(np.minimum(*both), np.maximum(*both), index[:, 0])


def _distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.sqrt(
        np.square(a.astype(np.float64) - b.astype(np.float64)).sum(1)
    )
    return distances


def closeness(found: Nearest, held_out: Nearest) -> dict[str, float]:
    """Compare how near images and held-out images are to the training images.

    Let d be the distance of an image to its nearest training image. The result has these numbers:

    - `below_1`, `below_5`, `below_50`: fraction of images with d below this percentile of the
      held-out images' d. Expected: 0.01, 0.05 and 0.5 for new images, 1 for copies.
    - `closer`: probability that an image's d is below a held-out image's d; ties count half.
      Expected: 0.5 for new images, 1 for copies.
    - `copies`: fraction with d below a third of the distance to the second nearest training image
      (Yoon et al. 2023; Gu et al. 2023, arXiv 2310.02664, section 2). Plain or blurred images do
      not count, because they are near many training images. A copy of an image that the training
      set has twice does not count either.
    - `median`: median of d.

    Fractions have a 95 % Wilson interval, `_low` and `_high`, over the given images only; `closer`
    has the standard error `closer_se` over both sets (DeLong et al. 1988).
    """
    result: dict[str, float] = {}
    n = len(found.distance)
    shares = {
        f"below_{q:g}": found.distance < np.percentile(held_out.distance, q) for q in PERCENTILES
    }
    shares["copies"] = 3 * found.distance < found.second
    for name, hit in shares.items():
        interval = binomtest(int(hit.sum()), n).proportion_ci(method="wilson")
        result[name] = float(hit.mean())
        result[f"{name}_low"], result[f"{name}_high"] = float(interval.low), float(interval.high)
    # for each image, the fraction of the other set that is farther, or nearer
    farther = 1 - _rank(held_out.distance, found.distance)
    nearer = _rank(found.distance, held_out.distance)
    result["closer"] = float(farther.mean())
    result["closer_se"] = float(
        np.sqrt(np.var(farther) / len(farther) + np.var(nearer) / len(nearer))
    )
    result["median"] = float(np.median(found.distance))
    return result


def _rank(values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fraction of `values` below each number in `at`; ties count half."""
    ordered = np.sort(values)
    both = np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")
    share: NDArray[np.float64] = both / (2 * len(values))
    return share

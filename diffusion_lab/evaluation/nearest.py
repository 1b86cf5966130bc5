"""How near images come to the images that a run was trained on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.neighbors import NearestNeighbors

_BATCH = 500
PERCENTILES = (1.0, 5.0, 50.0)
"""Of the held-out images' distances: what counts as near."""


@dataclass(frozen=True)
class Nearest:
    """The two nearest references of M queries."""

    distance: NDArray[np.float64]
    """(M,) Euclidean, to the nearest."""
    second: NDArray[np.float64]
    """(M,) to the second nearest."""
    index: NDArray[np.int64]
    """(M,) which reference is the nearest."""


def nearest(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    progress: Callable[[int], None] | None = None,
) -> Nearest:
    """Search the references (N, F), at least two, for the nearest of each query (M, F); exact.

    By scikit-learn's brute force, whose matrix products are in float64 chunk by chunk whatever the
    arrays are; the distances are computed again from the differences. progress(k) after each k
    queries.
    """
    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(references)
    found: list[NDArray[np.int64]] = []
    for first in range(0, len(queries), _BATCH):
        batch = queries[first : first + _BATCH]
        found.append(search.kneighbors(batch, return_distance=False))
        if progress is not None:
            progress(len(batch))
    index = np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    both = [_distance(queries, references[index[:, k]]) for k in (0, 1)]
    return Nearest(np.minimum(*both), np.maximum(*both), index[:, 0])


def _distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.sqrt(
        np.square(a.astype(np.float64) - b.astype(np.float64)).sum(1)
    )
    return distances


def closeness(found: Nearest, held_out: Nearest) -> dict[str, float]:
    """How much nearer than held-out images some images are to the training images.

    With d the distance to the nearest training image:

    - `below_1`, `below_5`, `below_50`: the share whose d is below this percentile of the held-out
      images' d. 0.01, 0.05 and 0.5 are expected of new images, 1 of copies.
    - `closer`: P(d < d of a held-out image), ties counting half; 0.5 is expected, 1 of copies.
    - `copies`: the share with d less than a third of the distance to the second nearest: Yoon et
      al. 2023; Gu et al. 2023 (arXiv 2310.02664), section 2. What is merely plain or blurred is
      near many images and does not count here; an image that the set holds twice does not either.
    - `median`: of d.

    Shares come with a 95 % interval (Wilson), `_low` and `_high`, for the images given and the
    held-out ones as they are; `closer` with its standard error `closer_se` over both (DeLong et al.
    1988).
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
    # of each image the share of the others that are farther, or nearer
    farther = 1 - _rank(held_out.distance, found.distance)
    nearer = _rank(found.distance, held_out.distance)
    result["closer"] = float(farther.mean())
    result["closer_se"] = float(
        np.sqrt(np.var(farther) / len(farther) + np.var(nearer) / len(nearer))
    )
    result["median"] = float(np.median(found.distance))
    return result


def _rank(values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the values below each of `at`, ties counting half."""
    ordered = np.sort(values)
    both = np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")
    share: NDArray[np.float64] = both / (2 * len(values))
    return share

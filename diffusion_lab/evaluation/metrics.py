"""Distances between two sets of features: FID, KID, precision, recall, density, coverage.

Arrays are float64: x (N, F) are features of samples, y (M, F) features of real images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[np.float64]
NUM_NEIGHBORS = 3
"""Neighbour k for precision and recall, as published."""
NUM_NEIGHBORS_DENSITY = 5
"""Neighbour k for density and coverage, as published."""
_BLOCK = 1000  # rows of a distance matrix computed at a time


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features, the input of the Frechet distance."""

    mean: Array
    """(F,)."""
    covariance: Array
    """(F, F), divided by N - 1."""

    @classmethod
    def of(cls, x: Array) -> "Moments":
        """Compute the moments of features x (N, F), N > 1."""
        return cls(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)))


def frechet_distance(x: Moments, y: Moments) -> float:
    """Return FID, |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)).

    Heusel et al. 2017, arXiv 1706.08500, equation 6, with means m and covariances C. Singular
    covariances are allowed. The expected value falls with the number of samples, so values at
    different numbers are not comparable.
    """
    # C_x C_y has the eigenvalues of the symmetric sqrt(C_x) C_y sqrt(C_x), whose square roots are
    # real in spite of rounding: no general matrix root is needed
    values, vectors = linalg.eigh(x.covariance)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    common = linalg.eigvalsh(root @ y.covariance @ root)
    trace = np.trace(x.covariance + y.covariance) - 2 * np.sqrt(common.clip(min=0)).sum()
    distance = np.square(x.mean - y.mean).sum() + trace
    return max(float(distance), 0.0)  # rounding may give -1e-13 for equal sets


def _kernel(x: Array, y: Array) -> Array:
    """Return KID's cubic kernel (x . y / F + 1)^3 of x (N, F) and y (M, F): (N, M)."""
    base: Array = x @ y.T
    base /= x.shape[1]
    base += 1
    return base * base * base  # ** 3 takes three times as long: it calls pow


def mean_kernel(x: Array, y: Array) -> float:
    """Return the mean of KID's kernel over all pairs of rows of x (N, F) and y (M, F)."""
    total = sum(_kernel(x[rows], y).sum() for rows in _blocks(len(x)))
    return float(total) / (len(x) * len(y))


def mean_kernel_within(x: Array) -> float:
    """Return the mean of KID's kernel over all pairs of different rows of x (N, F), N > 1."""
    same = float(((np.square(x).sum(1) / x.shape[1] + 1) ** 3).sum())
    n = len(x)
    return (mean_kernel(x, x) * n**2 - same) / (n * (n - 1))


def kid(within_x: float, within_y: float, between: float) -> float:
    """Return KID, the unbiased squared MMD, from mean kernels within and between two sets.

    Binkowski et al. 2018, arXiv 1801.01401. KID is computed over the whole sets, which has less
    variance than the usual mean over random subsets, and is deterministic. The expected value is 0
    for equal distributions, so KID may be negative.
    """
    return within_x + within_y - 2 * between


def squared_radii(x: Array, ks: tuple[int, ...]) -> list[Array]:
    """Return, for each k, the squared distance (N,) of each row of x to its k-th nearest neighbour.

    The rows x are (N, F). A row is not its own neighbour. Raises ValueError unless each k < N.
    """
    # not by scikit-learn: the k-th neighbour lies on the edge of the ball, so its distance must be
    # rounded as in the comparison with the radius, or it may count as outside
    if max(ks) >= len(x):
        raise ValueError(f"expected more than {max(ks)} points for k={max(ks)}, got {len(x)}")
    parts = []
    for rows in _blocks(len(x)):
        distances = _squared_distances(x[rows], x)
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        wanted = [k - 1 for k in ks]
        parts.append(np.partition(distances, wanted, axis=1)[:, wanted])
    return list(np.concatenate(parts).T)


def precision_recall_density_coverage(
    x: Array,
    y: Array,
    radii_x: Array,
    radii_y: Array,
    wide_radii_y: Array,
    k: int = NUM_NEIGHBORS_DENSITY,
) -> tuple[float, float, float, float]:
    """Return precision, recall, density and coverage of samples x and real images y.

    Precision is the fraction of x inside a ball around some y, with the squared radii `radii_y`
    (M,). Recall is the fraction of y inside a ball around some x, with the squared radii `radii_x`
    (N,) (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    Density and coverage use larger balls around y, with the squared radii `wide_radii_y` (M,), the
    squared distances to the k-th neighbour in y. Density is the mean number of these balls that
    contain a sample, divided by k. Coverage is the fraction of these balls with a sample inside
    (Naeem et al. 2020, arXiv 2002.09797).
    """
    inside = np.zeros(len(x), dtype=bool)
    recalled = covered = balls = 0
    for rows in _blocks(len(y)):
        distances = _squared_distances(y[rows], x)
        inside |= (distances <= radii_y[rows, None]).any(0)
        recalled += int((distances <= radii_x).any(1).sum())
        within = distances <= wide_radii_y[rows, None]
        balls += int(within.sum())
        covered += int(within.any(1).sum())
    return (
        float(inside.mean()),
        recalled / len(y),
        balls / (k * len(x)),
        covered / len(y),
    )


def class_shares(probabilities: Array) -> Array:
    """Return the fraction of images classified as each class: probabilities (N, K) -> (K,)."""
    num_classes = probabilities.shape[1]
    counts = np.bincount(probabilities.argmax(1), minlength=num_classes)
    shares: Array = counts / len(probabilities)
    return shares


def entropy(shares: Array) -> float:
    """Return the entropy of class fractions in bits: log2(K) if uniform, 0 for a single class."""
    positive = shares[shares > 0]
    return max(0.0, float(-(positive * np.log2(positive)).sum()))


def total_variation(p: Array, q: Array) -> float:
    """Return the total variation distance of class fractions p and q (K,): sum of |p - q| / 2."""
    return float(np.abs(p - q).sum() / 2)


def _squared_distances(a: Array, b: Array) -> Array:
    """Return all squared distances: (A, F), (B, F) -> (A, B)."""
    distances: Array = a @ b.T
    distances *= -2
    distances += np.square(a).sum(1)[:, None]
    distances += np.square(b).sum(1)
    return distances.clip(min=0, out=distances)


def _blocks(n: int) -> Iterator[slice]:
    for first in range(0, n, _BLOCK):
        yield slice(first, min(first + _BLOCK, n))

"""What two sets of features have in common. Arrays are float64; the formulas stand here only.

x (N, F) are the features of samples, y (M, F) those of real images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[np.float64]
NUM_NEIGHBORS = 3
"""k of precision and recall, as published."""
NUM_NEIGHBORS_DENSITY = 5
"""k of density and coverage, as published."""
_BLOCK = 1000  # rows of a matrix of distances that are held at once


@dataclass(frozen=True)
class Moments:
    """All that the Frechet distance looks at."""

    mean: Array
    """(F,)."""
    covariance: Array
    """(F, F), divided by N - 1."""

    @classmethod
    def of(cls, x: Array) -> "Moments":
        """Of features x (N, F), N > 1."""
        return cls(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)))


def frechet_distance(x: Moments, y: Moments) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)): FID, Heusel et al. 2017, eq. 6.

    arXiv 1706.08500. Of singular covariances too. Its expectation falls with N, so figures at
    different N do not compare.
    """
    # C_x C_y has the eigenvalues of the symmetric sqrt(C_x) C_y sqrt(C_x), whose square roots are
    # real whatever the rounding: no general matrix root is needed
    values, vectors = linalg.eigh(x.covariance)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    common = linalg.eigvalsh(root @ y.covariance @ root)
    trace = np.trace(x.covariance + y.covariance) - 2 * np.sqrt(common.clip(min=0)).sum()
    distance = np.square(x.mean - y.mean).sum() + trace
    return max(float(distance), 0.0)  # rounding may leave -1e-13 of equal sets


def _kernel(x: Array, y: Array) -> Array:
    """(x . y / F + 1)^3, (N, M)."""
    base: Array = x @ y.T
    base /= x.shape[1]
    base += 1
    return base * base * base  # ** 3 calls pow for each pair, which takes three times as long


def mean_kernel(x: Array, y: Array) -> float:
    """The mean of the kernel over all pairs of x (N, F) and y (M, F)."""
    total = sum(_kernel(x[rows], y).sum() for rows in _blocks(len(x)))
    return float(total) / (len(x) * len(y))


def mean_kernel_within(x: Array) -> float:
    """The mean of the kernel over all pairs of two different rows of x (N, F), N > 1."""
    same = float(((np.square(x).sum(1) / x.shape[1] + 1) ** 3).sum())
    n = len(x)
    return (mean_kernel(x, x) * n**2 - same) / (n * (n - 1))


def kid(within_x: float, within_y: float, between: float) -> float:
    """Squared MMD with the cubic kernel, unbiased: Binkowski et al. 2018 (arXiv 1801.01401).

    Of the three means above. Over the whole sets and not over random subsets, as is usual where
    features have 2,048 dimensions: the smallest variance, and nothing drawn. Zero in expectation
    for equal distributions, so it may be negative.
    """
    return within_x + within_y - 2 * between


def squared_radii(x: Array, ks: tuple[int, ...]) -> list[Array]:
    """For each k < N the squared distance (N,) of each row of x (N, F) to its k-th nearest other.

    Raises ValueError if there are not so many others.
    """
    # not by sklearn's neighbours: the k-th one lies on the edge of the ball, and whether it counts
    # as inside must not depend on how two ways of computing its distance are rounded
    if max(ks) >= len(x):
        raise ValueError(f"{len(x)} points have no {max(ks)}-th nearest other")
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
    """How the samples' and the real images' neighbourhoods lie in each other.

    Precision is the share of x inside a ball of y, recall that of y inside a ball of x
    (Kynkaanniemi et al. 2019, arXiv 1904.06991); density the mean number of balls of y
    around a sample over k, coverage the share of y with a sample in their ball (Naeem et al. 2020,
    arXiv 2002.09797). Balls have the squared radii: `radii_x` (N,) and `radii_y` (M,) for
    the first two, `wide_radii_y` (M,), to the k-th neighbour, for the others.
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
    """The share of images (N, K) for which each class is the likeliest, (K,)."""
    num_classes = probabilities.shape[1]
    counts = np.bincount(probabilities.argmax(1), minlength=num_classes)
    shares: Array = counts / len(probabilities)
    return shares


def entropy(shares: Array) -> float:
    """Of classes, in bits: log2(K) for K equally frequent ones, 0 for a single one."""
    there = shares[shares > 0]
    return max(0.0, float(-(there * np.log2(there)).sum()))


def total_variation(p: Array, q: Array) -> float:
    """Half the sum of |p - q|: the share of images that would have to change their class."""
    return float(np.abs(p - q).sum() / 2)


def _squared_distances(a: Array, b: Array) -> Array:
    """(A, F), (B, F) -> (A, B)."""
    distances: Array = a @ b.T
    distances *= -2
    distances += np.square(a).sum(1)[:, None]
    distances += np.square(b).sum(1)
    return distances.clip(min=0, out=distances)


def _blocks(n: int) -> Iterator[slice]:
    for first in range(0, n, _BLOCK):
        yield slice(first, min(first + _BLOCK, n))

"""Energy distance between two sets of points, of any dimension."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Points = NDArray[np.floating]
_ROWS = 1000  # rows of the matrix of distances that are computed at a time


def mean_distance(x: Points, y: Points) -> float:
    """Return the mean Euclidean distance of a point of x (N, F) and one of y (M, F), all pairs."""
    sums = [cdist(x[first : first + _ROWS], y).sum() for first in range(0, len(x), _ROWS)]
    return float(sum(sums)) / (len(x) * len(y))


def energy_distance(x: Points, y: Points, within_y: float | None = None) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'| of the points x (N, F) and y (M, F).

    Székely & Rizzo 2013, "Energy statistics", equation 5, for the distributions that give each
    point the same probability: at least 0, and 0 for equal sets only. For two samples of one
    distribution its expected value falls like 1/N + 1/M. `within_y` is E|Y - Y'|, if it is known.
    """
    within_y = mean_distance(y, y) if within_y is None else within_y
    return max(2 * mean_distance(x, y) - mean_distance(x, x) - within_y, 0.0)

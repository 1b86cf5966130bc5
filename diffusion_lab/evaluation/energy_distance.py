"""Energy distance between two sets of points, of any dimension."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Points = NDArray[np.floating]
_ROWS = 1000  # rows of the matrix of distances that are computed at a time


def mean_distance(x: Points, y: Points) -> float:
    """Return the mean Euclidean distance of a point of x (N, F) and one of y (M, F), all pairs."""
    sums = [cdist(x[first : first + _ROWS], y).sum() for first in range(0, len(x), _ROWS)]
    return float(sum(sums)) / (len(x) * len(y))


class EnergyDistance:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| of points x to the points y (M, F).

    Székely & Rizzo 2013, "Energy statistics: a class of statistics based on distances". The means
    are over all pairs of points, each point paired with itself too, so that the distance is at
    least 0, and 0 for equal sets only. For two samples of one distribution its expected value falls
    like 1/N + 1/M: compare distances of equal numbers of points only.
    """

    def __init__(self, y: Points) -> None:
        self.y = y

    @cached_property
    def _within(self) -> float:
        return mean_distance(self.y, self.y)

    def __call__(self, x: Points) -> float:
        """Return the distance of x (N, F)."""
        distance = 2 * mean_distance(x, self.y) - mean_distance(x, x) - self._within
        return max(distance, 0.0)  # rounding may give -1e-16 for equal sets

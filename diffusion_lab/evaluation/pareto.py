"""Pareto front of points with two costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_front(cost: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """Return a mask (N,) of the points on the Pareto front; lower cost and loss are better.

    A point is not on the front if another point is at least as good in cost and loss, and better in
    one of them. Equal points are on the front together. A point with NaN, or with an infinite loss,
    is never on the front.
    """
    x, y = np.asarray(cost, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    front = np.zeros(len(x), dtype=bool)
    best, last = np.inf, None  # the lowest loss so far, and its point
    for i in np.lexsort((y, x)):
        if y[i] < best or (x[i], y[i]) == last:
            front[i] = not np.isnan(x[i])
            if front[i]:
                best, last = y[i], (x[i], y[i])
    return front

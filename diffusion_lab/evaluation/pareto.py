"""Which of many choices no other beats in everything."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_front(cost: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """Return which points (N,) are on the front, where less of both is better.

    A point is off it if another is no worse in both and better in one; equal points share their
    place, and one with a NaN or an infinite loss is never on it.
    """
    x, y = np.asarray(cost, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    front = np.zeros(len(x), dtype=bool)
    best, last = np.inf, None  # the lowest loss so far, and the point that brought it
    for i in np.lexsort((y, x)):
        if y[i] < best or (x[i], y[i]) == last:
            front[i] = not np.isnan(x[i])
            if front[i]:
                best, last = y[i], (x[i], y[i])
    return front

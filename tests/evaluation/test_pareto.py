"""The Pareto front, compared with its definition point by point."""

import numpy as np
import pytest

from diffusion_lab.evaluation.pareto import pareto_front


def by_definition(x, y):
    def beats(a, b):
        return x[a] <= x[b] and y[a] <= y[b] and (x[a] < x[b] or y[a] < y[b])

    return [not any(beats(a, b) for a in range(len(x))) for b in range(len(x))]


@pytest.mark.parametrize("seed", range(30))
def test_no_point_beats_a_point_on_the_front(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    # whole numbers, so that there are ties in one measure and in both
    x, y = rng.integers(0, 8, n), rng.integers(0, 8, n)
    assert pareto_front(x, y).tolist() == by_definition(x, y)


def test_nan_is_never_on_the_front_and_never_beats_a_point():
    nan, inf = np.nan, np.inf
    assert pareto_front([1, 2, nan, 0], [3, 2, 0, nan]).tolist() == [True, True, False, False]
    assert pareto_front([1, 2], [inf, 5]).tolist() == [False, True]
    assert pareto_front([], []).tolist() == []

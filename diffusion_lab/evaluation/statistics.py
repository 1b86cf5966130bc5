"""Confidence intervals of means and significance tests of differences."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
Bounds = tuple[float, float]
"""Smallest and largest possible value of a metric."""
UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Summary:
    """Mean of a metric over n seeds; with a single seed, std and interval are None."""

    mean: float
    std: float | None
    """Sample standard deviation over the seeds (n - 1)."""
    low: float | None
    """Lower end of the two-sided 95 % interval of the mean (Student's t), within the bounds."""
    high: float | None
    """Upper end of the 95 % interval."""
    n: int


def summary(values: Sequence[float], bounds: Bounds = UNBOUNDED) -> Summary:
    """Summarise one or more values of a metric, one per seed: mean, deviation and 95 % interval.

    The interval is cut at the bounds, such as 0 and 1 for a fraction. The true mean lies within the
    bounds, so the coverage does not change.
    """
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(mean, None, None, None, n)
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / n**0.5
    return Summary(mean, std, *_within(bounds, mean - half, mean + half), n)


def _within(bounds: Bounds, low: float, high: float) -> Bounds:
    """Cut the interval (low, high) at the bounds; NaN stays NaN."""
    lowest, highest = bounds
    return (lowest if low < lowest else low), (highest if high > highest else high)


def difference_bounds(bounds: Bounds) -> Bounds:
    """Return the bounds of the difference of two values that each lie within `bounds`.

    For two fractions, with bounds 0 and 1, the result is (-1, 1).
    """
    return bounds[0] - bounds[1], bounds[1] - bounds[0]


@dataclass(frozen=True)
class Difference:
    """Difference of the means of a and b, with a 95 % interval and a two-sided p-value."""

    difference: float
    low: float | None
    high: float | None
    p_value: float | None


def welch(a: Sequence[float], b: Sequence[float], bounds: Bounds = UNBOUNDED) -> Difference:
    """Compare two independent sets of seeds with Welch's t-test (unequal variances).

    `bounds` are the lowest and the highest possible value of the metric. The interval is limited to
    the differences that these bounds allow.
    Interval and p-value are None if either set has a single seed, because its variance is unknown.
    """
    difference = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return Difference(difference, None, None, None)
    if np.ptp(a) == np.ptp(b) == 0:  # the test divides by the standard error
        return Difference(difference, difference, difference, float(difference == 0))
    result = _tested(difference, lambda: stats.ttest_ind(a, b, equal_var=False))
    assert result.low is not None
    assert result.high is not None
    low, high = _within(difference_bounds(bounds), result.low, result.high)
    return replace(result, low=low, high=high)


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare two sets of values by a paired t-test; entry i of each is of the same seed.

    Variation that both sets share per seed cancels. Raises ValueError for different lengths.
    """
    differences = np.subtract(a, b) if len(a) == len(b) else None
    if differences is None:
        raise ValueError(
            f"expected the same number of seeds in both sets, got {len(a)} and {len(b)}"
        )
    difference = float(differences.mean())
    if len(a) < 2:
        return Difference(difference, None, None, None)
    if np.ptp(differences) == 0:
        return Difference(difference, difference, difference, float(difference == 0))
    return _tested(difference, lambda: stats.ttest_rel(a, b))


def _tested(difference: float, test: Callable[[], Any]) -> Difference:
    with warnings.catch_warnings():
        # scipy warns of a set without variance, which Welch's test allows
        warnings.simplefilter("ignore", RuntimeWarning)
        result = test()
    interval = result.confidence_interval(CONFIDENCE)
    return Difference(difference, float(interval.low), float(interval.high), float(result.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of multiple comparisons by Holm's method (Holm 1979)."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(p) for p in adjusted]

"""Means with their uncertainty, and whether two of them differ."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
Bounds = tuple[float, float]
"""The least and the largest value that a figure can have."""
UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Summary:
    """One figure over several seeds. Of a single seed nothing but the figure is known."""

    mean: float
    std: float | None
    """Of a single seed's figure, divided by n - 1."""
    low: float | None
    """Of the mean: where a two-sided 95 % interval of Student's t begins, within the bounds."""
    high: float | None
    n: int


def summary(values: Sequence[float], bounds: Bounds = UNBOUNDED) -> Summary:
    """Of one figure a seed, at least one.

    What of the interval lies outside the bounds is cut off: no fraction is below 0. As the true
    mean lies within them, the rest covers it exactly as often.
    """
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(mean, None, None, None, n)
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / n**0.5
    return Summary(mean, std, *_within(bounds, mean - half, mean + half), n)


def _within(bounds: Bounds, low: float, high: float) -> Bounds:
    """Cut an interval off at the bounds; NaN stays."""
    lowest, highest = bounds
    return (lowest if low < lowest else low), (highest if high > highest else high)


def difference_bounds(bounds: Bounds) -> Bounds:
    """Return the bounds of a difference of two figures with these: -1 and 1 of two fractions."""
    return bounds[0] - bounds[1], bounds[1] - bounds[0]


@dataclass(frozen=True)
class Difference:
    """The mean of a over that of b, with a 95 % interval and a two-sided p-value."""

    difference: float
    low: float | None
    high: float | None
    p_value: float | None


def welch(a: Sequence[float], b: Sequence[float], bounds: Bounds = UNBOUNDED) -> Difference:
    """Of two independent sets of seeds, whose spreads may differ (Welch's t-test).

    `bounds` are those of a figure: the interval is cut off where no difference of two can lie.

    The interval and the p-value are None where either has a single seed: nothing is known of its
    spread.
    """
    difference = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return Difference(difference, None, None, None)
    if np.ptp(a) == np.ptp(b) == 0:  # the test divides by the spread
        return Difference(difference, difference, difference, float(difference == 0))
    found = _tested(difference, lambda: stats.ttest_ind(a, b, equal_var=False))
    assert found.low is not None
    assert found.high is not None
    low, high = _within(difference_bounds(bounds), found.low, found.high)
    return replace(found, low=low, high=high)


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Of two sets with the same seeds in the same order: what they share cancels out.

    Raises ValueError for sets of different lengths.
    """
    differences = np.subtract(a, b) if len(a) == len(b) else None
    if differences is None:
        raise ValueError(f"pairs need as many seeds on both sides, got {len(a)} and {len(b)}")
    difference = float(differences.mean())
    if len(a) < 2:
        return Difference(difference, None, None, None)
    if np.ptp(differences) == 0:
        return Difference(difference, difference, difference, float(difference == 0))
    return _tested(difference, lambda: stats.ttest_rel(a, b))


def _tested(difference: float, test: Callable[[], Any]) -> Difference:
    with warnings.catch_warnings():
        # scipy warns of one side without spread, which Welch's test takes as it is
        warnings.simplefilter("ignore", RuntimeWarning)
        result = test()
    interval = result.confidence_interval(CONFIDENCE)
    return Difference(difference, float(interval.low), float(interval.high), float(result.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons so that all of them hold together (Holm 1979)."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(p) for p in adjusted]

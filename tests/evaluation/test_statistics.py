"""Intervals that cover what they say, tests that reject as often as they say."""

import numpy as np
import pytest
from scipy import stats

from diffusion_lab.evaluation.statistics import holm, paired, summary, welch


def test_a_summary_by_hand():
    found = summary([1.0, 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert found.std == pytest.approx(7**0.5)
    half = 4.302653 * (7 / 3) ** 0.5  # Student's t with 2 degrees of freedom
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_one_seed_has_no_interval():
    found = summary([2.5])
    assert (found.mean, found.std, found.low, found.high) == (2.5, None, None, None)
    assert welch([1.0], [2.0, 3.0]).p_value is None
    assert welch([1.0], [2.0, 3.0]).difference == -1.5
    assert paired([1.0], [3.0]).low is None


def test_intervals_of_three_seeds_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    found = [summary(list(random.normal(5, 2, size=3))) for _ in range(4000)]
    covered = np.mean([of.low <= 5 <= of.high for of in found])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_welch_rejects_equal_means_as_often_as_it_says_and_finds_different_ones():
    random = np.random.default_rng(0)
    false = [welch(random.normal(size=4), random.normal(0, 3, size=6)) for _ in range(2000)]
    assert np.mean([of.p_value < 0.05 for of in false]) == pytest.approx(0.05, abs=0.02)
    found = welch([1.0, 1.1, 0.9], [2.0, 2.2, 1.9])
    assert found.high < 0 and found.p_value < 0.01
    assert (found.low, found.high) == pytest.approx(
        tuple(stats.ttest_ind([1, 1.1, 0.9], [2, 2.2, 1.9], equal_var=False).confidence_interval())
    )


def test_pairs_see_through_what_seeds_share():
    shared = np.array([1.0, 10.0, 20.0])
    a, b = shared + np.array([0.5, 0.6, 0.4]), shared
    assert paired(a, b).p_value < 0.05 < welch(a, b).p_value
    with pytest.raises(ValueError, match="3 and 2"):
        paired(a, b[:2])


def test_no_spread_at_all_divides_by_nothing():
    assert welch([1.0, 1.0], [2.0, 2.0]).p_value == 0
    assert welch([1.0, 1.0], [1.0, 1.0]).p_value == 1
    assert paired([1.0, 2.0], [0.0, 1.0]).low == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]

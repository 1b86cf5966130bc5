"""Coverage of confidence intervals and error rates of significance tests."""

import warnings

import numpy as np
import pytest
from scipy import stats

from diffusion_lab.evaluation.features.extractor import Features
from diffusion_lab.evaluation.features.reference import Reference
from diffusion_lab.evaluation.metrics import Moments
from diffusion_lab.evaluation.score import IMAGE_METRICS, FeatureScorer, bounds_of
from diffusion_lab.evaluation.statistics import holm, paired, summary, welch


def test_a_summary_matches_a_computation_by_hand():
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


def test_intervals_of_three_seeds_have_their_nominal_coverage():
    random = np.random.default_rng(0)
    found = [summary(list(random.normal(5, 2, size=3))) for _ in range(4000)]
    covered = np.mean([of.low <= 5 <= of.high for of in found])
    assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
def test_welch_has_its_nominal_error_rate_and_detects_differences():
    random = np.random.default_rng(0)
    false = [welch(random.normal(size=4), random.normal(0, 3, size=6)) for _ in range(2000)]
    assert np.mean([of.p_value < 0.05 for of in false]) == pytest.approx(0.05, abs=0.02)
    found = welch([1.0, 1.1, 0.9], [2.0, 2.2, 1.9])
    assert found.high < 0 and found.p_value < 0.01
    assert (found.low, found.high) == pytest.approx(
        tuple(stats.ttest_ind([1, 1.1, 0.9], [2, 2.2, 1.9], equal_var=False).confidence_interval())
    )


def test_intervals_of_differences_have_their_nominal_coverage():
    random = np.random.default_rng(1)
    found = [welch(random.normal(3, 1, size=4), random.normal(1, 2, size=5)) for _ in range(600)]
    assert np.mean([of.low <= 2 <= of.high for of in found]) == pytest.approx(0.95, abs=0.03)


def test_one_side_without_variance_gives_no_warning():
    """Such as a precision of 1 for every seed."""
    b = [0.9, 0.93, 0.96]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = welch([1.0, 1.0, 1.0], b)
    error = np.std(b, ddof=1) / 3**0.5  # the degrees of freedom are then those of b alone
    half = stats.t.ppf(0.975, 2) * error
    assert found.difference == pytest.approx(0.07)
    assert (found.low, found.high) == pytest.approx((0.07 - half, 0.07 + half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.07 / error, 2))


def test_paired_matches_a_test_of_the_differences():
    random = np.random.default_rng(2)
    a, b = random.normal(size=(2, 6))
    of_differences = stats.ttest_1samp(a - b, 0)
    found, interval = paired(a, b), of_differences.confidence_interval()
    assert found.p_value == pytest.approx(of_differences.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_paired_removes_variation_shared_by_seeds():
    shared = np.array([1.0, 10.0, 20.0])
    a, b = shared + np.array([0.5, 0.6, 0.4]), shared
    assert paired(a, b).p_value < 0.05 < welch(a, b).p_value
    with pytest.raises(ValueError, match="3 and 2"):
        paired(a, b[:2])


def test_no_variance_does_not_divide_by_zero():
    assert welch([1.0, 1.0], [2.0, 2.0]).p_value == 0
    assert welch([1.0, 1.0], [1.0, 1.0]).p_value == 1
    assert paired([1.0, 2.0], [0.0, 1.0]).low == 1


def test_holm_matches_a_computation_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_holm_matches_its_step_down_procedure():
    """The procedure as published: from the smallest p on, as long as p < alpha / (m - i)."""
    random = np.random.default_rng(3)
    for _ in range(200):
        p_values, alpha = random.beta(0.4, 4, size=5), 0.05
        rejected = set()
        for i, index in enumerate(np.argsort(p_values)):
            if p_values[index] >= alpha / (5 - i):
                break
            rejected.add(index)
        assert {i for i, p in enumerate(holm(p_values)) if p < alpha} == rejected


def test_holm_controls_the_family_wise_error_rate():
    random = np.random.default_rng(4)
    any_found = [min(holm(random.uniform(size=6))) < 0.05 for _ in range(4000)]
    assert np.mean(any_found) == pytest.approx(0.05, abs=0.012)


def test_an_interval_is_cut_at_the_bounds():
    values = [0.02, 0.05, 0.2]
    free, bounded = summary(values), summary(values, (0.0, 1.0))
    assert free.low < 0
    assert (bounded.low, bounded.high) == (0.0, free.high)
    assert (bounded.mean, bounded.std) == (free.mean, free.std)
    wide = summary([0.1, 0.9], (0.0, 1.0))
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert summary([0.5, 0.6, 0.7], (0.0, 1.0)) == summary([0.5, 0.6, 0.7])
    assert np.isnan(summary([np.nan, 1.0], (0.0, 1.0)).low)
    difference = welch([0.0, 0.9], [1.0, 0.2], (0.0, 1.0))
    assert (difference.low, difference.high) == (-1.0, 1.0)
    assert difference.p_value == welch([0.0, 0.9], [1.0, 0.2]).p_value


def test_cutting_does_not_change_the_coverage():
    """For fractions near 0, the cut interval covers as often as the full one."""
    random = np.random.default_rng(2)
    draws = [list(random.binomial(40, 0.03, size=3) / 40) for _ in range(2000)]
    pairs = [(summary(v), summary(v, (0.0, 1.0))) for v in draws]
    assert any(free.low < 0 for free, _ in pairs)
    covers = [[of.low <= 0.03 <= of.high for of in pair] for pair in pairs]
    assert all(free == bounded for free, bounded in covers)


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_every_metric_has_the_bounds_of_its_formula(name):
    """Measured on sets that are as different, and as similar, as possible."""
    random = np.random.default_rng(3)
    lowest, highest = bounds_of(name)
    assert bounds_of("val/loss") == (-np.inf, np.inf)

    def features(mean, classes):
        logits = np.eye(3)[random.integers(0, classes, 40)]
        return Features(random.normal(mean, 1, (40, 4)), logits)

    real = [features(0, 3), features(0, 3)]
    labels = np.zeros(40, dtype=np.int64)
    moments = [Moments.of(of.values) for of in real]
    reference = Reference("d", "e", "s", real[0], labels, real[1], labels, *moments)
    for samples in (real[0], features(50, 1), features(0.1, 2)):
        value = FeatureScorer(reference)(samples, labels)[name]
        assert lowest <= value <= highest

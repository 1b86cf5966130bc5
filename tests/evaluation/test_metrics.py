"""Metrics, compared with their definitions, other packages and closed forms."""

import numpy as np
import pytest
import torch
from scipy import linalg
from sklearn.neighbors import NearestNeighbors
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from diffusion_lab.evaluation import metrics


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(12, 12))
    return random.normal(size=(300, 12)) @ mixing, random.normal(0.3, 1.2, size=(250, 12)) @ mixing


class Flat(torch.nn.Module):
    """Feature network for torchmetrics that returns the images as features."""

    num_features = 12

    def forward(self, x):
        return x.flatten(1)


def fid(x, y):
    return metrics.frechet_distance(metrics.Moments.of(x), metrics.Moments.of(y))


def kid(x, y):
    within = metrics.mean_kernel_within
    return metrics.kid(within(x), within(y), metrics.mean_kernel(x, y))


def test_fid_matches_a_general_matrix_root(features):
    x, y = features
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert fid(x, y) == pytest.approx(expected, rel=1e-4)


def test_fid_matches_torchmetrics(features):
    other = FrechetInceptionDistance(feature=Flat(), input_img_size=(12, 1, 1))
    for part, real in zip(features, (True, False), strict=True):
        other.update(torch.from_numpy(part).view(-1, 12, 1, 1), real=real)
    assert fid(*features) == pytest.approx(other.compute().item(), rel=1e-4)


def test_fid_of_gaussians_matches_the_closed_form():
    """For N(m, s^2) in each coordinate: sum (m1 - m2)^2 + (s1 - s2)^2."""
    mean = np.array([1.0, 2.0, -1.0])
    distance = metrics.frechet_distance(
        metrics.Moments(mean, np.diag([1.0, 4.0, 9.0])),
        metrics.Moments(np.zeros(3), np.diag([4.0, 4.0, 1.0])),
    )
    assert distance == pytest.approx(6 + 1 + 0 + 4)


def test_fid_of_equal_and_of_degenerate_sets():
    x = np.random.default_rng(0).normal(size=(5, 12))  # the covariance has rank 4
    assert fid(x, x) == pytest.approx(0, abs=1e-9)
    assert fid(x, x + 2) == pytest.approx(4 * 12)


def test_fid_of_shifted_and_scaled_features(features):
    x, y = features
    apart = x.mean(0) - y.mean(0)
    by = np.arange(12.0)
    moved = fid(x, y) - apart @ apart + (apart + by) @ (apart + by)
    assert fid(x + by, y) == pytest.approx(moved)
    # 2 x has the covariance 4 C, whose root with C is 2 C: tr(4 C + C - 2 * 2 C) = tr(C)
    centred = x - x.mean(0)
    assert fid(2 * centred, centred) == pytest.approx(np.trace(np.cov(x.T)))
    assert fid(x, y) == pytest.approx(fid(y, x))


def test_fid_of_one_distribution_falls_with_the_number_of_samples():
    random = np.random.default_rng(0)
    truth = metrics.Moments(np.zeros(8), np.eye(8))

    def mean_fid(n):
        draws = [metrics.Moments.of(random.normal(size=(n, 8))) for _ in range(40)]
        return np.mean([metrics.frechet_distance(draw, truth) for draw in draws])

    few, many = mean_fid(50), mean_fid(500)
    # to first order in 1 / N: F of the mean, F (F + 1) / 4 of the covariance
    assert many == pytest.approx((8 + 8 * 9 / 4) / 500, rel=0.1)
    assert few > 8 * many


def test_kid_matches_torchmetrics_over_the_whole_sets(features):
    x, y = features[0][:250], features[1]
    other = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=250)
    for part, real in ((y, True), (x, False)):
        other.update(torch.from_numpy(part).view(-1, 12, 1, 1), real=real)
    assert kid(x, y) == pytest.approx(other.compute()[0].item(), rel=1e-4)


def test_kid_matches_the_sum_over_pairs(features):
    x, y = features[0][:7], features[1][:5]

    def k(a, b):
        return (a @ b / 12 + 1) ** 3

    within_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y) == pytest.approx(within_x + within_y - 2 * between)


def test_kid_is_unbiased():
    """For two sets of one distribution KID is 0 on average, however small the sets."""
    random = np.random.default_rng(0)
    draws = [kid(random.normal(size=(10, 4)), random.normal(size=(10, 4))) for _ in range(2000)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 2000**0.5


def four(x, y):
    (radii,) = metrics.squared_radii(x, (3,))
    return metrics.precision_recall_density_coverage(x, y, radii, *metrics.squared_radii(y, (3, 5)))


def test_neighbourhood_metrics_match_their_definitions(features):
    x, y = features[0][:60], features[1][:50]

    def radius(points, i, k):
        return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

    rx = [radius(x, i, 3) for i in range(len(x))]
    ry, wide = ([radius(y, i, k) for i in range(len(y))] for k in (3, 5))
    d = np.array([[np.linalg.norm(a - b) for b in y] for a in x])
    precision = np.mean([any(d[i, j] <= ry[j] for j in range(len(y))) for i in range(len(x))])
    recall = np.mean([any(d[i, j] <= rx[i] for i in range(len(x))) for j in range(len(y))])
    density = sum(d[i, j] <= wide[j] for i in range(len(x)) for j in range(len(y))) / (5 * len(x))
    coverage = np.mean([any(d[i, j] <= wide[j] for i in range(len(x))) for j in range(len(y))])
    assert four(x, y) == pytest.approx((precision, recall, density, coverage))
    assert 0 < precision < 1 and 0 < recall < 1  # else nothing is tested


def test_radii_match_scikit_learn(features):
    x = features[0]
    distances, _ = NearestNeighbors(n_neighbors=6, algorithm="kd_tree").fit(x).kneighbors(x)
    for k, squared in zip((3, 5), metrics.squared_radii(x, (3, 5)), strict=True):
        assert np.sqrt(squared) == pytest.approx(distances[:, k])  # column 0 is the point itself
    with pytest.raises(ValueError, match="more than 5 points for k=5, got 5"):
        metrics.squared_radii(x[:5], (3, 5))


def test_repeated_points_are_inside_balls_of_radius_0(features):
    """As samples of a collapsed model: rounding must not put a point outside its own ball."""
    x = np.repeat(features[0] * 100, 6, axis=0)
    shuffled = x[np.random.default_rng(0).permutation(len(x))]
    precision, recall, density, coverage = four(shuffled, x)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == pytest.approx(6 / 5)  # six equal points, each with a ball


def test_neighbourhood_metrics_do_not_depend_on_the_block_size(features, monkeypatch):
    whole = four(*features)
    monkeypatch.setattr(metrics, "_BLOCK", 7)
    assert four(*features) == pytest.approx(whole)


def test_neighbourhood_metrics_of_equal_and_of_distant_sets(features):
    x, _ = features
    precision, recall, density, coverage = four(x, x)
    assert (precision, recall, coverage) == (1, 1, 1)
    # its own ball, and those of the five whose neighbour it is on average
    assert density == pytest.approx(6 / 5)
    assert four(x, x + 1e3) == (0, 0, 0, 0)


def test_class_metrics():
    probabilities = np.array([[0.9, 0.1, 0.0, 0.0], [0.2, 0.8, 0, 0], [0.1, 0.9, 0, 0]])
    shares = metrics.class_shares(probabilities)
    assert shares == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert metrics.entropy(np.full(8, 1 / 8)) == pytest.approx(3)
    assert metrics.entropy(np.array([1.0, 0.0])) == 0
    even = np.full(4, 1 / 4)
    assert metrics.total_variation(shares, even) == pytest.approx(1 / 12 + 5 / 12)
    assert metrics.total_variation(even, even) == 0

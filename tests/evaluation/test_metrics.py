"""The metrics against their definitions, other packages and closed forms."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from diffusion_lab.evaluation import metrics


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(12, 12))
    return random.normal(size=(300, 12)) @ mixing, random.normal(0.3, 1.2, size=(250, 12)) @ mixing


class Flat(torch.nn.Module):
    """What torchmetrics takes for a feature network: the images are the features."""

    num_features = 12

    def forward(self, x):
        return x.flatten(1)


def fid(x, y):
    return metrics.frechet_distance(metrics.Moments.of(x), metrics.Moments.of(y))


def kid(x, y):
    within = metrics.mean_kernel_within
    return metrics.kid(within(x), within(y), metrics.mean_kernel(x, y))


def test_fid_is_that_of_a_general_matrix_root(features):
    x, y = features
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert fid(x, y) == pytest.approx(expected, rel=1e-4)


def test_fid_is_torchmetrics(features):
    other = FrechetInceptionDistance(feature=Flat(), input_img_size=(12, 1, 1))
    for part, real in zip(features, (True, False), strict=True):
        other.update(torch.from_numpy(part).view(-1, 12, 1, 1), real=real)
    assert fid(*features) == pytest.approx(other.compute().item(), rel=1e-4)


def test_fid_of_gaussians_is_the_closed_form():
    """Of N(m, s^2) in each coordinate: sum (m1 - m2)^2 + (s1 - s2)^2."""
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


def test_kid_is_torchmetrics_over_the_whole_sets(features):
    x, y = features[0][:250], features[1]
    other = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=250)
    for part, real in ((y, True), (x, False)):
        other.update(torch.from_numpy(part).view(-1, 12, 1, 1), real=real)
    assert kid(x, y) == pytest.approx(other.compute()[0].item(), rel=1e-4)


def test_kid_is_the_sum_over_pairs(features):
    x, y = features[0][:7], features[1][:5]

    def k(a, b):
        return (a @ b / 12 + 1) ** 3

    within_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y) == pytest.approx(within_x + within_y - 2 * between)


def test_kid_is_unbiased():
    """Of two sets from one distribution it is zero on average, however small they are."""
    random = np.random.default_rng(0)
    draws = [kid(random.normal(size=(10, 4)), random.normal(size=(10, 4))) for _ in range(2000)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 2000**0.5


def four(x, y):
    (radii,) = metrics.squared_radii(x, (3,))
    return metrics.precision_recall_density_coverage(x, y, radii, *metrics.squared_radii(y, (3, 5)))


def test_neighbourhoods_are_those_of_the_definitions(features):
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
    assert 0 < precision < 1 and 0 < recall < 1  # or nothing was compared


def test_neighbourhoods_do_not_depend_on_the_blocks(features, monkeypatch):
    whole = four(*features)
    monkeypatch.setattr(metrics, "_BLOCK", 7)
    assert four(*features) == pytest.approx(whole)


def test_neighbourhoods_of_equal_and_of_far_sets(features):
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

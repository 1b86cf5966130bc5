"""The density of each distribution against independent formulas, its own samples, and 1."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from diffusion_lab.data.points.distributions import DISTRIBUTIONS, STD

NAMES = list(DISTRIBUTIONS)


def sample(name, count=1500, seed=0):
    return DISTRIBUTIONS[name].sample(count, torch.Generator().manual_seed(seed))


@cache
def on_grid(name, side=100, reach=1.6):
    """The centres of the cells of a grid, the log densities there, and the area of a cell."""
    width = 2 * reach / side  # that of the narrowest curves: the sum converges exponentially
    centres = -reach + width * (torch.arange(side, dtype=torch.float64) + 0.5)
    points = torch.cartesian_prod(centres, centres)
    return points, DISTRIBUTIONS[name].log_density(points), width**2


@pytest.mark.parametrize("name", NAMES)
def test_the_density_integrates_to_one_and_is_standardised(name):
    points, known, area = on_grid(name)
    density = known.exp() * area
    # cells on the edge of a dark square count wholly or not at all
    tolerance = 0.05 if DISTRIBUTIONS[name].bounded else 1e-4
    assert density.sum().item() == pytest.approx(1, abs=tolerance)
    assert (density[:, None] * points).sum(0).abs().max() < 2e-3
    variance = (density * points.square().sum(1)).sum() / 2
    assert variance.item() == pytest.approx(STD**2, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_of_that_density(name):
    """Their mean log density is the integral of p log p, and so are their moments."""
    points, labels = sample(name)
    assert points.dtype == torch.float32 and points.shape == (1500, 2)
    assert points.mean(0).abs().max() < 4 * STD * 1.3 / 1500**0.5
    assert points.square().mean().item() == pytest.approx(STD**2, rel=0.05)
    logs = DISTRIBUTIONS[name].log_density(points)
    assert logs.dtype == torch.float64 and logs.isfinite().all()
    _, known, area = on_grid(name)
    integral = (torch.where(known.isfinite(), known.exp() * known, 0) * area).sum()
    error = float(logs.std()) / len(logs) ** 0.5 + (0.05 if DISTRIBUTIONS[name].bounded else 0)
    assert abs(float(logs.mean() - integral)) < 4 * error
    classes = DISTRIBUTIONS[name].num_classes
    counts = labels.bincount(minlength=classes or 1)
    assert len(counts) == (classes or 1) and counts.max() - counts.min() <= 1


def test_eight_gaussians_are_a_mixture_of_gaussians():
    scale = STD / math.sqrt(0.5 + 0.1**2)
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    centres = scale * torch.stack([angles.cos(), angles.sin()], 1)
    uniform = Categorical(torch.full((8,), 1 / 8, dtype=torch.float64))
    mixture = MixtureSameFamily(uniform, Independent(Normal(centres, 0.1 * scale), 1))
    points = 2 * torch.rand(200, 2, dtype=torch.float64) - 1
    found = DISTRIBUTIONS["eight_gaussians"].log_density(points)
    torch.testing.assert_close(found, mixture.log_prob(points))
    drawn, labels = sample("eight_gaussians", 800)
    nearest = torch.cdist(drawn.double(), centres).argmin(1)
    assert (nearest == labels).float().mean() > 0.98


def test_moons_are_those_of_scikit_learn_with_noise():
    curves, labels = make_moons(4000, noise=None)
    mean = np.array([0.5, 0.25])
    # mean squares along the curves, by hand
    variance = (0.75 + (0.75 - 2 / math.pi + 0.5) / 2 - 0.0625) / 2 + 0.1**2
    scale = STD / math.sqrt(variance)
    points = torch.rand(60, 2, dtype=torch.float64) - 0.5
    raw = points.numpy() / scale + mean
    squares = np.square(raw[:, None] - curves).sum(-1)
    density = np.exp(-squares / (2 * 0.1**2)).mean(1) / (2 * math.pi * 0.1**2) / scale**2
    found = DISTRIBUTIONS["moons"].log_density(points).exp().numpy()
    np.testing.assert_allclose(found, density, rtol=0.02)
    drawn, of = sample("moons", 200)
    raw = drawn.numpy() / scale + mean
    near = labels[np.square(raw[:, None] - curves).sum(-1).argmin(1)]
    assert (near == of.numpy()).mean() > 0.98


def test_the_checkerboard_is_uniform_on_its_dark_squares():
    scale = STD / (4 / math.sqrt(12))
    points, _ = sample("checkerboard", 8000)
    board = points / scale + 2
    column, row = board.floor().long().unbind(1)
    assert ((column + row) % 2 == 0).all() and board.min() >= 0 and board.max() < 4
    counts = (4 * row + column).bincount(minlength=16)
    assert counts[counts > 0].shape == (8,) and counts[counts > 0].min() > 850
    logs = DISTRIBUTIONS["checkerboard"].log_density(points)
    torch.testing.assert_close(logs, torch.full_like(logs, -math.log(8 * scale**2)))
    light = (torch.tensor([[1.5, 0.5], [-0.5, 0.5], [9.0, 9.0]]) - 2) * scale
    assert DISTRIBUTIONS["checkerboard"].log_density(light).tolist() == [-math.inf] * 3


@pytest.mark.parametrize("name", ["moons", "spiral", "swiss_roll"])
def test_the_quadrature_along_a_curve_has_converged(name):
    known = DISTRIBUTIONS[name]
    points = torch.rand(300, 2, dtype=torch.float64) * 2 - 1
    finer = type(known)(known.curve, known.std, known.num_curves, 4000)
    torch.testing.assert_close(
        known.log_density(points), finer.log_density(points), atol=1e-4, rtol=0
    )

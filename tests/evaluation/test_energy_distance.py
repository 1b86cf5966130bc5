import math

import numpy as np
import pytest
from scipy import stats

from diffusion_lab.evaluation.energy_distance import EnergyDistance, mean_distance


def test_closed_forms():
    zero, three_four = np.zeros((1, 2)), np.array([[3.0, 4.0]])
    assert mean_distance(zero, three_four) == 5
    assert EnergyDistance(zero)(three_four) == 10  # 2 |x - y| of two points
    two = np.array([[0.0, 0.0], [0.0, 2.0]])
    # E|X - Y| = 1 of the middle, E|Y - Y'| = 1
    assert EnergyDistance(two)(np.array([[0.0, 1.0]])) == pytest.approx(2 * 1 - 0 - 1)
    assert EnergyDistance(two)(two[::-1]) == 0


def test_it_is_the_square_of_scipys_in_one_dimension():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.3, 1, (1700, 1)), rng.normal(0, 2, (1200, 1))
    expected = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert EnergyDistance(y)(x) == pytest.approx(expected, rel=1e-9)


def test_of_two_gaussians():
    """In the plane E|X - X'| = s sqrt(pi), s^2 a coordinate's variance; X - Y has their mean."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, (3000, 2)), rng.normal(0, 2, (3000, 2))
    expected = math.sqrt(math.pi) * (2 * math.sqrt(2.5) - 1 - 2)
    assert EnergyDistance(y)(x) == pytest.approx(expected, rel=0.1)


def test_of_one_distribution_it_falls_with_the_number():
    rng = np.random.default_rng(2)

    def mean_of(n):
        draws = [
            EnergyDistance(rng.normal(size=(n, 2)))(rng.normal(size=(n, 2))) for _ in range(20)
        ]
        return np.mean(draws)

    # its expectation is 2 E|X - X'| / n for the two sets together
    assert mean_of(50) == pytest.approx(2 * math.sqrt(math.pi) / 50, rel=0.3)
    assert mean_of(500) == pytest.approx(2 * math.sqrt(math.pi) / 500, rel=0.3)

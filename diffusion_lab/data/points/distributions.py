"""Distributions of points in the plane: samples, labels and exact log densities."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

STD = 0.5
"""Standard deviation of a coordinate after standardisation: EDM's default sigma_data."""
_NODES = 500  # of the quadrature along a curve; its error is far below 1e-6 nats
_EDGE = 1e-6
_PIECE = 1000  # points whose density is computed at once


class Distribution(ABC):
    """A distribution in the plane, moved and scaled so that its mean is 0 and its variance known.

    Both coordinates are divided by the same number, which preserves the shape: their mean square is
    STD^2. Mean and scale are those of the distribution, not of a sample, so that all points of all
    splits are treated alike and the density is exact.
    """

    num_classes: int | None = None
    """Labels are 0 to num_classes - 1; None without labels."""
    bounded = False
    """True if the density is 0 in parts of the plane."""

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw points, float32 (count, 2), and their labels, int64 (count,), 0 if there are none.

        Classes are equally frequent: their counts differ by at most one.
        """
        labels = torch.randperm(count, generator=generator) % (self.num_classes or 1)
        points = self._sample(labels, generator)
        return ((points - self._mean) * self._factor).float(), labels

    def log_density(self, points: Tensor) -> Tensor:
        """Exact log density at points (N, 2), in nats. -> float64 (N,); -inf where there is none.

        For curves the integral over the curve is computed by Gauss-Legendre quadrature.
        """
        raw = points.double() / self._factor + self._mean
        pieces = [self._log_density(piece) for piece in raw.split(_PIECE)]
        return torch.cat(pieces) - 2 * math.log(self._factor)

    @cached_property
    def _mean(self) -> Tensor:
        """Mean before standardisation, float64 (2,)."""
        return self._moments()[0]

    @cached_property
    def _factor(self) -> float:
        """Factor of the standardisation."""
        return STD / math.sqrt(self._moments()[1])

    @abstractmethod
    def _sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a point for each label (N,), before standardisation. -> float64 (N, 2)."""

    @abstractmethod
    def _log_density(self, points: Tensor) -> Tensor:
        """Log density before standardisation. (N, 2) -> (N,)."""

    @abstractmethod
    def _moments(self) -> tuple[Tensor, float]:
        """Mean (2,) before standardisation, and variance of a coordinate, averaged over both."""


Curve = Callable[[Tensor, Tensor], Tensor]
"""(position u in [0, 1] (N,), label (N,)) -> point of the class's curve, float64 (N, 2)."""


class NoisyCurves(Distribution):
    """Points uniform in u on a curve for each class, plus Gaussian noise of standard deviation std.

    A curve that does not depend on u is a point: then the distribution is a mixture of Gaussians.
    """

    def __init__(self, curve: Curve, std: float, num_curves: int, nodes: int = _NODES) -> None:
        self.curve, self.std, self.num_curves, self.nodes = curve, std, num_curves, nodes
        self.num_classes = num_curves if num_curves > 1 else None

    def _sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(len(labels), generator=generator, dtype=torch.float64)
        noise = torch.randn(len(labels), 2, generator=generator, dtype=torch.float64)
        return self.curve(u, labels) + self.std * noise

    @cached_property
    def _centres(self) -> tuple[Tensor, Tensor]:
        """Centres (K, 2) of the mixture that the quadrature makes of the curves; weights (K,)."""
        from scipy.special import roots_legendre  # takes a moment to import

        places, weights = roots_legendre(self.nodes)  # on [-1, 1]
        u = torch.from_numpy((places + 1) / 2).repeat(self.num_curves)
        labels = torch.arange(self.num_curves).repeat_interleave(self.nodes)
        shares = torch.from_numpy(weights / 2).repeat(self.num_curves) / self.num_curves
        return self.curve(u, labels), shares

    def _log_density(self, points: Tensor) -> Tensor:
        centres, shares = self._centres
        lengths = points.square().sum(1, keepdim=True) + centres.square().sum(1)
        squares = lengths - 2 * points @ centres.T
        logs = shares.log() - squares / (2 * self.std**2)
        return logs.logsumexp(1) - math.log(2 * math.pi * self.std**2)

    def _moments(self) -> tuple[Tensor, float]:
        centres, shares = self._centres
        mean = (shares[:, None] * centres).sum(0)
        spread = (shares * (centres - mean).square().sum(1)).sum() / 2
        return mean, float(spread) + self.std**2


class Checkerboard(Distribution):
    """Uniform on the eight dark squares of a 4 x 4 board."""

    bounded = True

    def _sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        square = torch.randint(8, labels.shape, generator=generator)
        row, column = square // 2, square % 2 * 2 + square // 2 % 2
        inside = torch.rand(len(labels), 2, generator=generator, dtype=torch.float64)
        inside = _EDGE + inside * (1 - 2 * _EDGE)  # float32 must not round a point into a neighbour
        return torch.stack([column, row], 1) + inside

    def _log_density(self, points: Tensor) -> Tensor:
        column, row = points.floor().unbind(1)
        on_board = ((points >= 0) & (points < 4)).all(1)
        dark = on_board & ((column + row) % 2 == 0)
        return torch.where(dark, -math.log(8), -math.inf).to(points)

    def _moments(self) -> tuple[Tensor, float]:
        # each coordinate is uniform on [0, 4]
        return torch.full((2,), 2.0, dtype=torch.float64), 4**2 / 12


def _moons(u: Tensor, label: Tensor) -> Tensor:
    """Two half circles of radius 1, the second below the first and shifted."""
    angle = math.pi * u
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    return torch.where(label[:, None] == 0, upper, lower)


def _eight(u: Tensor, label: Tensor) -> Tensor:
    """Eight points on a circle of radius 1."""
    angle = math.pi / 4 * label.to(u)
    return torch.stack([angle.cos(), angle.sin()], 1)


def _two_arms(u: Tensor, label: Tensor) -> Tensor:
    """Two arms of a spiral with one and a half turns, of radius 1; dense at all radii."""
    radius = u.sqrt() * (1 - 2 * (label % 2)).to(u)
    angle = 3 * math.pi * u.sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def _swiss_roll(u: Tensor, label: Tensor) -> Tensor:
    """One and a half turns of an Archimedean spiral, from radius 1/3 to 1."""
    angle = math.pi * (1.5 + 3 * u)
    return torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / (4.5 * math.pi)


DISTRIBUTIONS: dict[str, Distribution] = {
    "moons": NoisyCurves(_moons, 0.1, 2),
    "eight_gaussians": NoisyCurves(_eight, 0.1, 8, nodes=1),
    "checkerboard": Checkerboard(),
    "spiral": NoisyCurves(_two_arms, 0.03, 2),
    "swiss_roll": NoisyCurves(_swiss_roll, 0.03, 1),
}
"""The values of data.distribution=. Lengths are those before standardisation."""

"""Points in the plane, drawn afresh from a distribution and a seed of their own."""

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.loader import check_whole_number
from diffusion_lab.data.points.distributions import DISTRIBUTIONS, STD
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.networks.image_size import height_and_width


class Points:
    """The source of data=points: `num_points` for training and validation, others for testing.

    A point is an image of two channels and one pixel, float32 (N, 2, 1, 1), so that every part of
    the lab takes it. Raises UserError for an unknown distribution or a number out of range.
    """

    size = (1, 1)

    def __init__(
        self,
        channels: int,
        image_size: ImageSize | None,
        distribution: str = "moons",
        num_points: int = 20_000,
        num_test_points: int = 10_000,
        points_seed: int = 0,
    ) -> None:
        size = (1, 1) if image_size is None else height_and_width(image_size)
        if (channels, *size) != (2, 1, 1):
            raise UserError(
                f"data.channels={channels}, data.image_size={image_size}: points have two "
                "coordinates; leave out both, which are 2 and 1"
            )
        if distribution not in DISTRIBUTIONS:
            raise UserError(unknown_name("data.distribution", distribution, list(DISTRIBUTIONS)))
        for name, number, least in (
            ("num_points", num_points, 2),
            ("num_test_points", num_test_points, 2),
            ("points_seed", points_seed, 0),
        ):
            check_whole_number(name, number, least)
        self.name, self.seed = distribution, points_seed
        self.counts = {"train": num_points, "test": num_test_points}

    @property
    def num_classes(self) -> int | None:
        """Moons, arms of the spiral or Gaussians; None for the other distributions."""
        return DISTRIBUTIONS[self.name].num_classes

    def prepare(self) -> None:
        """Do nothing: the points are drawn when they are read."""

    def read(self) -> ImageSet:
        """Draw the points; each split has random numbers of its own."""
        drawn = [self._draw(split, index) for index, split in enumerate(self.counts)]
        return ImageSet(
            *drawn[0],
            *drawn[1],
            name=self.name,
            source="points",
            note=f"drawn with seed {self.seed}; mean 0 and standard deviation {STD}",
            distribution=DISTRIBUTIONS[self.name],
        )

    def _draw(self, split: str, index: int) -> tuple[Tensor, Tensor]:
        (state,) = np.random.SeedSequence((self.seed, index)).generate_state(1)
        generator = torch.Generator().manual_seed(int(state))
        points, labels = DISTRIBUTIONS[self.name].sample(self.counts[split], generator)
        return points[:, :, None, None], labels

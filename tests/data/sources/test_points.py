"""data=points through the datamodule: fresh points, one seed of their own, and bad input."""

import pytest
import torch

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.points.distributions import DISTRIBUTIONS
from diffusion_lab.errors import UserError


def points(**settings):
    settings = {"channels": 2, "image_size": 1, "value_range": "unbounded"} | settings
    return ImageDataModule("points", **({"val_size": 20, "num_points": 200} | settings))


@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
def test_points_are_images_of_two_channels_and_one_pixel(name):
    data = points(distribution=name, num_test_points=50)
    data.setup()
    assert data.image_shape == (2, 1, 1)
    assert {split: len(data.pixels(split)) for split in ("train", "val", "test")} == {
        "train": 180,
        "val": 20,
        "test": 50,
    }
    x, labels = next(iter(data.train_dataloader()))
    assert x.shape == (128, 2, 1, 1) and x.dtype == torch.float32
    assert labels.max() < (data.num_classes or 1)
    about = data.provenance
    assert about["dataset"] == name and about["source"] == "points"
    assert "seed 0; mean 0 and standard deviation 0.5" in about["note"]


def test_the_points_have_a_seed_of_their_own():
    def read(**settings):
        return points(**settings).image_set()

    first, same = read(seed=0), read(seed=5)
    assert first.sha256 == same.sha256 != read(points_seed=1).sha256
    fewer = read(num_points=100)  # of one split only
    assert torch.equal(fewer.test_images, first.test_images)
    assert not torch.equal(first.train_images[:20], first.test_images[:20])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"distribution": "moon"}, "did you mean moons"),
        ({"distribution": "roses"}, "choose from moons, eight_gaussians, checkerboard, spiral"),
        ({"channels": 3}, r"data.channels=3, data.image_size=1: points have two coordinates"),
        ({"image_size": 28}, "data.image_size=28: points have two"),
        ({"num_points": 1}, r"data.num_points=1: expected a whole number, at least 2"),
        ({"num_test_points": 0}, r"data.num_test_points=0: expected"),
        ({"points_seed": -1}, r"data.points_seed=-1: expected"),
        ({"num_images": 9}, r"data.num_images has no effect on the data set points: leave it out"),
        ({"flip": True}, r"data.flip=true needs pixels"),
    ],
)
def test_bad_input_is_one_line(settings, told):
    with pytest.raises(UserError, match=told) as raised:
        points(**settings)
    assert "\n" not in str(raised.value)


def test_points_belong_to_their_own_value_range_and_options():
    with pytest.raises(UserError, match=r"data.value_range=zero_one: moons has numbers"):
        points(value_range="zero_one").setup()
    with pytest.raises(UserError, match="belongs to data=points"):
        ImageDataModule("fake", distribution="moons")

"""EDM's augmentation: each transformation against exact pixels or a closed form."""

import math

import numpy as np
import pytest
import torch

from diffusion_lab.data.augmentation import EDMAugmentation, transform, values_of
from diffusion_lab.errors import UserError

IMAGES = torch.rand(6, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def parameters(**given: float) -> torch.Tensor:
    """Parameters of one image: a0 to a7, zero unless given."""
    return torch.tensor([[given.get(f"a{k}", 0.0) for k in range(8)]])


def drawn(count: int = 20_000, **settings: float) -> np.ndarray:
    torch.manual_seed(0)
    return EDMAugmentation(**settings).draw(count).double().numpy()


def test_without_a_transformation_nothing_changes():
    images, values = EDMAugmentation(probability=0, x_flip=False)(IMAGES)
    assert torch.equal(images, IMAGES) and not values.any() and values.shape == (6, 9)
    assert torch.equal(transform(IMAGES, torch.zeros(6, 8)), IMAGES)


def test_flips_move_whole_pixels():
    torch.manual_seed(0)
    images, values = EDMAugmentation(probability=0)(IMAGES)
    mirrored = values[:, 0] == 1
    assert 0 < mirrored.sum() < 6
    assert torch.equal(images[mirrored], IMAGES[mirrored].flip(3))
    assert torch.equal(images[~mirrored], IMAGES[~mirrored])
    assert torch.equal(transform(IMAGES[:1], parameters(a1=1)), IMAGES[:1].flip(2))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_by_right_angles_moves_whole_pixels(quarters):
    square = IMAGES[:1, :, :, :8]
    turned = transform(square, parameters(a3=quarters * math.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(square, -quarters, (2, 3)), atol=1e-4, rtol=0)


def test_translation_moves_right_and_down_and_reflects_at_the_border():
    moved = transform(IMAGES[:1], parameters(a6=2 * 8 / 12, a7=3))  # by 2 and 3 pixels
    rows = [2, 1, 0, 0, 1, 2, 3, 4]
    columns = [1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    expected = IMAGES[:1, :, rows][..., columns]
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


def test_scaling_shows_a_part_enlarged():
    """A linear image stays linear, with a slope divided by the factor.

    But for 0.06 pixels, as torch's bicubic kernel does not quite reproduce a plane.
    """
    columns = torch.arange(32.0).expand(1, 1, 32, 32)
    large = transform(columns, parameters(a2=5))  # 2^(0.2 x 5) = 2
    middle = large[0, 0, 16]
    torch.testing.assert_close(middle, 15.5 + (torch.arange(32.0) - 15.5) / 2, atol=0.06, rtol=0)


@pytest.mark.parametrize("size", [(24, 32), (32, 32)])
def test_all_together_are_one_affine_map(size):
    """The value of a pixel of a plane tells where it was read, but for 0.06 pixels."""
    height, width = size
    given = {"a2": 0.7, "a3": 0.4, "a4": 1.1, "a5": -0.9, "a6": 0.3, "a7": -0.4}
    y, x = np.mgrid[:height, :width].astype(float)
    planes = torch.from_numpy(np.stack([x, y])[None])
    read = transform(planes, parameters(**given))[0].numpy()

    def rotation(angle):
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    stretch = np.diag([2 ** (0.2 * given["a5"]), 2 ** (-0.2 * given["a5"])])
    stretch = rotation(given["a4"]) @ stretch @ rotation(-given["a4"])
    forward = stretch @ rotation(given["a3"]) * 2 ** (0.2 * given["a2"])
    shift = np.array([given["a6"] * width, given["a7"] * height]) / 8
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    pixels = np.stack([x.ravel(), y.ravel()], 1)
    before = (pixels - middle - shift) @ np.linalg.inv(forward).T + middle
    inside = ((before > 2) & (before < np.array([width, height]) - 3)).all(1)
    assert inside.mean() > 0.4
    np.testing.assert_allclose(read.reshape(2, -1).T[inside], before[inside], atol=0.06)


def test_the_nine_values_describe_the_parameters():
    a = drawn(200, probability=0.5)
    values = values_of(torch.from_numpy(a)).numpy()
    expected = [a[:, 0], a[:, 1], a[:, 2], np.cos(a[:, 3]) - 1, np.sin(a[:, 3])]
    expected += [a[:, 5] * np.cos(a[:, 4]), a[:, 5] * np.sin(a[:, 4]), a[:, 6], a[:, 7]]
    np.testing.assert_allclose(values, np.stack(expected, 1))
    assert EDMAugmentation.num_values == 9 == values.shape[1]


def test_parameters_have_their_distributions():
    a = drawn(probability=0.12)
    assert a[:, 0].mean() == pytest.approx(0.5, abs=0.02)  # the x-flip, in any case
    assert a[:, 1].mean() == pytest.approx(0.06, abs=0.01)
    used = a[:, 2:] != 0
    assert used.mean(0) == pytest.approx(0.12, abs=0.01)
    for together in ((4, 5), (6, 7)):
        first, second = (a[:, k] != 0 for k in together)
        assert (first == second).all()
    apart = np.corrcoef(used[:, [0, 1, 2, 4]].T) - np.eye(4)
    assert np.abs(apart).max() < 0.03
    whole = drawn(probability=1)
    assert whole[:, [2, 5, 6, 7]].std(0) == pytest.approx(1, abs=0.02)
    assert np.abs(whole[:, [3, 4]]).max() < math.pi + 1e-6
    assert whole[:, [3, 4]].std(0) == pytest.approx(2 * math.pi / 12**0.5, abs=0.03)
    assert not drawn(100, x_flip=False)[:, 0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_images_stay_in_their_range(dtype):
    torch.manual_seed(0)
    sharp = (IMAGES[:2].repeat(100, 1, 1, 1) > 0).to(dtype) * 2 - 1  # bicubic would overshoot
    images, values = EDMAugmentation(probability=1)(sharp)
    assert images.dtype == dtype and images.min() == -1 and images.max() == 1
    assert values.isfinite().all() and values.dtype == torch.float32


def test_autocast_does_not_round_where_pixels_are_read():
    given = torch.from_numpy(drawn(6, probability=1)).float()
    plain = transform(IMAGES, given)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transform(IMAGES, given), plain)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_probability_out_of_range_is_rejected(probability):
    with pytest.raises(UserError, match=r"augment\.probability=.*expected a number from 0 to 1"):
        EDMAugmentation(probability)

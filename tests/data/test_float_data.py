"""Data that are no pixels: real numbers, float32 or float16."""

import hashlib

import numpy as np
import pytest
import torch

from diffusion_lab.data.clusters import Clusters
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import BlendSampler, DiffusersSampler
from diffusion_lab.errors import UserError
from diffusion_lab.modules.contracts import check_range

POINTS = np.random.default_rng(0).standard_normal((40, 2, 1, 1)).astype(np.float32)
LABELS = np.arange(40) % 2
UNBOUNDED = ValueRange("unbounded")


def image_set(images=POINTS, test=POINTS[:8]):
    labels, test_labels = torch.from_numpy(LABELS[: len(images)]), torch.from_numpy(LABELS[:8])
    images, test = torch.as_tensor(images), torch.as_tensor(test)
    return ImageSet(images, labels, test, test_labels, "mine", "function", "a note")


def points():
    return (POINTS, LABELS), (POINTS[:8], LABELS[:8])


def of_points(**settings):
    settings = {"channels": 2, "image_size": 1, "images": points, "num_classes": 2} | settings
    settings = {"val_size": 5, "batch_size": 7, "value_range": "unbounded"} | settings
    return ImageDataModule("mine", **settings)


def test_nothing_is_scaled_or_clamped():
    values = torch.tensor([-7.0, 0.0, 0.3, 1e6])
    assert torch.equal(UNBOUNDED.encode(values), values)
    assert torch.equal(UNBOUNDED.decode(values), values)
    assert UNBOUNDED.encode(values.half()).dtype == torch.float32
    with pytest.raises(UserError, match="an image needs pixels, but these data are real numb"):
        UNBOUNDED.to_unit(values)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_the_hash_covers_the_bytes_of_all_numbers(kind):
    images, test = POINTS.astype(kind), POINTS[:8].astype(kind)
    parts = (images, LABELS.astype(np.uint8), test, LABELS[:8].astype(np.uint8))
    expected = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    assert image_set(images, test).sha256 == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_image_that_is_not_finite_is_named(value):
    broken = POINTS.copy()
    broken[3, 1] = value
    with pytest.raises(UserError, match="mine: train image 3 holds NaN or infinity"):
        image_set(broken)
    with pytest.raises(UserError, match="mine: test image 3 holds NaN or infinity"):
        image_set(test=broken[:8])


def test_other_types_are_rejected():
    with pytest.raises(UserError, match=r"train images of torch.float64 .*expected torch.uint8"):
        image_set(POINTS.astype(np.float64))
    with pytest.raises(UserError, match=r"test images of torch.float16: expected"):
        image_set(test=POINTS[:8].astype(np.float16))


def test_batches_are_the_numbers_themselves():
    data = of_points()
    data.setup()
    assert data.image_shape == (2, 1, 1)
    images = torch.cat([x for x, _ in data.train_dataloader()])
    assert images.dtype == torch.float32
    rest = {tuple(row) for row in POINTS.reshape(40, 2)}
    assert {tuple(row) for row in images.flatten(1).numpy()} < rest
    test = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)[0]
    assert torch.equal(test, torch.from_numpy(POINTS[:7]))
    assert data.example_images(99, split="test").shape == (8, 2, 1, 1)


def test_numbers_are_read_from_npz_too(tmp_path):
    np.savez(tmp_path / "a.npz", images=POINTS)
    settings = {"channels": 2, "image_size": 1, "value_range": "unbounded", "val_size": 5}
    data = ImageDataModule("mine", source="npz", path=str(tmp_path / "a.npz"), **settings)
    data.setup()
    both = torch.cat([data.pixels(split) for split in ("train", "val", "test")])
    assert both.shape == (40, 2, 1, 1)
    np.testing.assert_array_equal(np.sort(both.flatten()), np.sort(POINTS.flatten()))


def test_the_value_range_must_fit_the_type_of_the_data():
    data = of_points(value_range="zero_one")
    with pytest.raises(
        UserError, match=r"mine has numbers and no pixels; expected data.value_range="
    ):
        data.setup()
    pixels = ImageDataModule("fake", num_images=8, value_range="unbounded", val_size=1)
    with pytest.raises(UserError, match=r"fake has uint8 pixels; expected data.value_range=zero"):
        pixels.setup()


def test_numbers_are_neither_mirrored_nor_padded():
    with pytest.raises(UserError, match=r"data.flip=true needs pixels"):
        of_points(flip=True)
    data = of_points(image_size=3)
    with pytest.raises(UserError, match=r"of shape \(40, 2, 1, 1\): expected \(N, 2, 3, 3\)"):
        data.setup()


def test_clusters_of_points_are_near_each_other():
    centres = np.array([[5.0, 0], [-5, 0], [0, 5]], np.float32)
    which = np.arange(90) % 3
    x = torch.from_numpy(centres[which].reshape(90, 2, 1, 1) + 0.1 * POINTS[:1])
    labels = Clusters(x, 3)(x)
    assert len({(int(a), int(b)) for a, b in zip(labels, which, strict=True)}) == 3


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_a_sampler_that_clips_is_rejected(name):
    check_range(DiffusersSampler(name, 10), ValueRange("minus_one_one"))
    with pytest.raises(UserError, match=r"type sampler.clip_sample=false"):
        check_range(DiffusersSampler(name, 10), UNBOUNDED)
    check_range(DiffusersSampler(name, 10, clip_sample=False), UNBOUNDED)
    with pytest.raises(UserError, match=name):
        check_range(DiffusersSampler(name, 10, clip_sample=False, thresholding=True), UNBOUNDED)
    check_range(BlendSampler(10), UNBOUNDED)

"""User-defined data sets: one function, whose result is checked before training."""

import hashlib
from functools import partial

import numpy as np
import pytest
import torch

from diffusion_lab.data import ImageDataModule
from diffusion_lab.errors import UserError

LABELS = np.array([0, 1, 2, 1, 0, 2])


def images(count=6, side=8):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
    return (pixels, LABELS[:count]), (pixels[:3], LABELS[:3])


def module(read=images, **settings):
    given = {"name": "mine", "image_size": 12, "val_size": 2, "num_classes": 3, "batch_size": 2}
    return ImageDataModule(**(given | settings), images=read)


def test_images_are_split_padded_and_hashed():
    data = module()
    data.setup()
    assert data.pixels("train").shape == (4, 1, 12, 12) and data.pixels("val").shape[0] == 2
    assert data.num_classes == 3 and data.image_shape == (1, 12, 12)
    (train, labels), (test, test_labels) = images()
    assert torch.equal(data.pixels("test")[:, 0, 2:-2, 2:-2], torch.from_numpy(test))
    assert data.pixels("test")[:, :, :2].max() == 0
    assert sorted([*data.labels("train"), *data.labels("val")]) == sorted(labels)
    parts = (train, labels.astype(np.uint8), test, test_labels.astype(np.uint8))
    expected = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    assert data.provenance["sha256"] == expected
    assert data.provenance["dataset"] == "mine" and data.provenance["source"] == "function"


def test_other_arguments_change_the_hash():
    one, other = module(partial(images, count=6)), module(partial(images, count=5))
    for data in (one, other):
        data.setup()
    assert one.provenance["sha256"] != other.provenance["sha256"]


def test_color_images_and_tensors_are_accepted():
    pixels = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    split = (pixels, torch.from_numpy(LABELS))
    data = module(lambda: (split, split), channels=3, image_size=8)
    data.setup()
    assert data.pixels("test").equal(pixels)


def test_images_without_labels_have_no_classes():
    (train, _), (test, _) = images()
    calls = []

    def read():
        calls.append(1)
        return (train, None), (test, None)

    data = module(read, num_classes=None)
    assert data.num_classes is None
    data.setup()
    assert calls == [1] and data.num_classes is None
    assert not data.labels("train").any() and len(data.labels("train")) == 4
    assert module(lambda: images(), num_classes=None).num_classes == 10
    with pytest.raises(UserError, match=r"returned no labels, but data\.num_classes=3: leave out"):
        module(read).setup()
    half = module(lambda: ((train, None), (test, LABELS[:3])), num_classes=None)
    with pytest.raises(UserError, match="returned train no labels: expected labels in both"):
        half.setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mnist"}, "type another data.name="),
        ({"name": "fake"}, "type another data.name="),
        ({"read": ((), ())}, "data.images is a tuple: expected a function"),
        ({"num_images": 3}, "data.images.num_images="),
        ({"source": "full"}, "data.images.source="),
        ({"image_size": None}, "image_size"),
        ({"num_classes": 300}, "expected at most 256"),
        ({"num_classes": 0}, "num_classes"),
        ({"channels": 0}, "data.channels=0"),
    ],
)
def test_unsupported_settings_are_rejected(settings, message):
    with pytest.raises(UserError, match=message):
        module(**settings)


def test_num_classes_needs_a_user_defined_data_set():
    with pytest.raises(UserError, match=r"data\.num_classes"):
        ImageDataModule(name="fake", num_classes=3)


PIXELS = np.zeros((6, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((PIXELS / 255, LABELS), "torch.float64: expected torch.uint8"),
        ((PIXELS[:, :7], LABELS), r"\(6, 1, 7, 8\): expected \(N, 1, 12, 12\)"),
        ((np.zeros((6, 3, 8, 8), np.uint8), LABELS), r"expected \(N, 1, 12, 12\)"),
        ((np.zeros((6, 13, 13), np.uint8), LABELS), r"expected \(N, 1, 12, 12\)"),
        ((PIXELS, LABELS + 1), "labels from 1 to 3: expected 0 to 2, or data.num_classes=4"),
        ((PIXELS, LABELS - 1), "labels from -1 to 1: expected 0 to 2$"),
        ((PIXELS, LABELS / 2), "whole numbers"),
        ((PIXELS, LABELS[:5]), "6 images and 5 labels"),
        ((PIXELS[:0], LABELS[:0]), "0 images"),
        (PIXELS, "failed"),
    ],
)
def test_the_returned_arrays_are_checked(train, message):
    data = module(lambda: (train, (PIXELS, LABELS)))
    with pytest.raises(UserError, match=message) as error:
        data.setup()
    assert str(error.value).startswith("data.images: tests.data.test_own.")


def test_an_error_in_the_function_is_reported_in_one_line():
    def read():
        raise FileNotFoundError("no such file: pictures.npz")

    with pytest.raises(UserError, match=r"failed \(FileNotFoundError: no such file: pictures.npz"):
        module(read).setup()

"""Reference features: beside an extractor's weights, or computed once and cached."""

import json
import logging
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.sources.fake import draw_bars, fake_images
from diffusion_lab.data.sources.published import load_images
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features import reference as module
from diffusion_lab.evaluation.features.extractor import Extractor
from diffusion_lab.evaluation.features.find_reference import reference_for
from diffusion_lab.evaluation.features.load import load_extractor, shipped_versions
from diffusion_lab.evaluation.features.reference import (
    cache_key,
    cached_reference,
    load_reference,
    make_reference,
)
from tests.evaluation.test_extractor import altered, digits, flip_last_bit


class Means(Extractor):
    """Extractor of the mean and the brightest pixel; counts its calls."""

    resize_rule = "none"

    def __init__(self, sha256="a" * 64):
        def see(x):
            self.looks += 1
            return torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], 1), x.new_empty(len(x), 0)

        super().__init__(see, "means", sha256, 2, 0, (1, 28, 28))
        self.looks = 0

    def fit(self, images):
        return images


def small_set(seed=0, size=28, name="bars"):
    generator = torch.Generator().manual_seed(seed)
    train, test = (draw_bars(n, size, 1, generator) for n in (30, 12))
    return ImageSet(*train, *test, name=name, source="fake", note="")


def assert_equal(a, b):
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, str):
            assert x == y
        elif isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y)
        else:
            for part in fields(x):
                np.testing.assert_array_equal(getattr(x, part.name), getattr(y, part.name))


def test_the_reference_beside_the_weights_uses_held_out_images(fake_extractor):
    extractor = load_extractor(str(fake_extractor))
    reference = load_reference(extractor)
    assert (reference.data, reference.extractor) == ("fake", "fake_v1")
    assert reference.extractor_sha256 == extractor.sha256

    data = ImageDataModule("fake", num_images=300, val_size=60)
    data.setup()
    for seen, labels, moments, loader in (
        (reference.test, reference.test_labels, reference.test_moments, data.test_dataloader()),
        (reference.train, reference.train_labels, reference.train_moments, data.val_dataloader()),
    ):
        exact = extractor(loader.images)
        np.testing.assert_array_equal(labels, loader.labels.numpy())
        np.testing.assert_allclose(seen.values, exact.values, rtol=2**-10, atol=1e-6)
        np.testing.assert_allclose(seen.probabilities, exact.probabilities, atol=1e-6)
        # the moments were not rounded to half precision
        np.testing.assert_allclose(moments.mean, exact.values.mean(axis=0), atol=1e-6)
        around = exact.values - exact.values.mean(axis=0)
        by_hand = around.T @ around / (len(around) - 1)
        np.testing.assert_allclose(moments.covariance, by_hand, atol=1e-6)


def test_one_altered_bit_of_the_reference_is_detected(fake_extractor, tmp_path):
    name = altered(fake_extractor, "fake_v1.reference.safetensors", tmp_path, flip_last_bit)
    with pytest.raises(UserError, match=r"reference\.safetensors has been altered"):
        load_reference(load_extractor(name))


@pytest.mark.parametrize("name", [name for name in shipped_versions() if name.startswith("mnist_")])
def test_a_shipped_reference_matches_its_extractor(name, tmp_path):
    extractor = load_extractor(name)
    reference = load_reference(extractor)
    assert len(reference.test) == len(reference.train) == 10_000
    images, labels, full = digits(tmp_path)
    if full:
        np.testing.assert_array_equal(reference.test_labels, labels.numpy())
        seen = extractor(images[:1_000])
        np.testing.assert_allclose(
            reference.test.values[:1_000], seen.values, rtol=0.002, atol=1e-3
        )
        return
    # a sixth of the bundled digits, which are training images, was held out for the reference
    data = load_images("mnist", tmp_path, "bundled")
    seen = extractor(torch.cat([data.train_images, data.test_images])).values
    nearest = torch.cdist(torch.tensor(seen), torch.tensor(reference.train.values)).amin(dim=1)
    same = (nearest < 0.01).double().mean()
    assert 0.13 < same < 0.21


class Stored:
    """Stands for an ImageDataModule of these images."""

    def __init__(self, images, data_dir):
        self.images, self.data_dir = images, data_dir

    def image_set(self):
        return self.images


def never():
    raise AssertionError("the images were read")


def without_reference(folder, tmp_path, **data):
    """Copy an extractor without its reference; `data` changes the record of its training data."""
    copy = tmp_path / "alone"
    shutil.copytree(folder, copy)
    (copy / "fake_v1.reference.safetensors").unlink()
    record = json.loads((copy / "fake_v1.json").read_text())
    record["data"] |= data
    (copy / "fake_v1.json").write_text(json.dumps(record))
    return load_extractor(str(copy))


def test_an_extractor_uses_its_own_reference_for_its_training_data(fake_extractor):
    extractor = load_extractor(str(fake_extractor))
    assert_equal(reference_for(extractor, "fake", never), load_reference(extractor))


def test_without_its_file_the_reference_is_computed_from_the_training_data(
    fake_extractor, tmp_path
):
    whole = load_reference(load_extractor(str(fake_extractor)))
    extractor = without_reference(fake_extractor, tmp_path)
    same = Stored(fake_images(300), tmp_path / "data")
    for _ in range(2):  # computed, then cached
        computed = reference_for(extractor, "fake", lambda: same)
        assert_equal(computed, whole)  # of held-out images alone, though there are more
    assert len(list((tmp_path / "data" / "references").iterdir())) == 1
    with pytest.raises(UserError, match="fake_v1 comes with no reference: type data="):
        load_reference(extractor)


def test_folders_of_images_are_known_by_their_content_not_their_name(fake_extractor, tmp_path):
    """Every folder of images has the name `images`."""
    images = fake_images(300)
    of_folder = {"dataset": "images", "source": "folder", "sha256": images.sha256}
    copy = tmp_path / "copy"
    shutil.copytree(fake_extractor, copy)
    record = json.loads((copy / "fake_v1.json").read_text())
    (copy / "fake_v1.json").write_text(json.dumps(record | {"data": record["data"] | of_folder}))
    extractor = load_extractor(str(copy))
    same, other = (Stored(one, tmp_path / "data") for one in (images, fake_images(200, seed=1)))
    assert_equal(reference_for(extractor, "images", lambda: same), load_reference(extractor))
    computed = reference_for(extractor, "images", lambda: other)
    np.testing.assert_array_equal(computed.test_labels, other.images.test_labels.numpy())
    assert len(computed.train) == 200


def test_references_go_to_the_users_cache_beside_other_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "holiday.jpg").touch()
    reference_for(Means(), "bars", lambda: Stored(small_set(), mine))
    assert [file.name for file in mine.iterdir()] == ["holiday.jpg"]
    [kept] = (tmp_path / "cache" / "diffusion_lab" / "references").iterdir()
    assert kept.suffix == ".safetensors"


def test_shuffled_images_are_taken_as_a_run_splits_them():
    """A run on a folder of pictures has the first of them as its validation images."""
    images, extractor = replace(small_set(), shuffled=True), Means()
    found = cached_reference(extractor, images, None, n=5)
    np.testing.assert_array_equal(found.train_labels, images.train_labels[:5])
    assert cache_key(extractor, images, 5) != cache_key(extractor, small_set(), 5)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        found = cached_reference(Means(), small_set(), tmp_path / "file" / "cache")
    assert len(found.test) == 12 and "cannot be kept" in caplog.text


def test_labels_of_many_classes_are_kept(tmp_path):
    images = small_set()
    many = replace(images, test_labels=torch.arange(12) * 90)
    for _ in range(2):
        found = cached_reference(Means(), many, tmp_path)
        np.testing.assert_array_equal(found.test_labels, np.arange(12) * 90)


def test_a_reference_is_computed_once_and_read_unchanged(tmp_path):
    extractor, images = Means(), small_set()
    first = cached_reference(extractor, images, tmp_path / "cache", n=10)
    looks = extractor.looks
    assert_equal(cached_reference(extractor, images, tmp_path / "cache", n=10), first)
    assert extractor.looks == looks > 0
    [file] = (tmp_path / "cache").iterdir()
    assert file.name == f"{cache_key(extractor, images, 10)}.safetensors"

    assert len(first.test) == len(first.train) == 10
    expected = images.test_images[:10].double().div(255).mean(dim=(1, 2, 3))
    np.testing.assert_allclose(first.test.values[:, 0], expected, rtol=2**-10)
    # the training images are the validation images of every run
    data = ImageDataModule("fake", num_images=30, num_test_images=12, val_size=10)
    data._load = lambda: images
    data.setup()
    np.testing.assert_array_equal(first.train_labels, data.val_dataloader().labels.numpy())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:50],
        flip_last_bit,
        lambda content: content.replace(b"bars", b"bbrs"),
        lambda content: content.replace(b"sha256", b"sha257"),
        lambda content: b"",
        lambda content: b"x" * 99,
    ],
    ids=["cut", "bit", "name", "key", "empty", "other"],
)
def test_a_damaged_cache_is_computed_again_with_a_warning(tmp_path, caplog, damage):
    extractor, images = Means(), small_set()
    first = cached_reference(extractor, images, tmp_path, n=10)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(bytearray(whole)))
    with caplog.at_level(logging.WARNING):
        assert_equal(cached_reference(extractor, images, tmp_path, n=10), first)
    assert "damaged" in caplog.text and file.name in caplog.text
    assert file.read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


def test_every_input_of_a_reference_changes_its_key(monkeypatch):
    extractor, images = Means(), small_set()
    keys = {cache_key(extractor, images, 10)}
    assert keys == {cache_key(Means(), small_set(), 10)}
    keys.add(cache_key(extractor, images, 11))
    keys.add(cache_key(Means("b" * 64), images, 10))
    keys.add(cache_key(extractor, small_set(seed=1), 10))
    # the same bytes in another shape, and in other splits
    pixels = [images.train_images.reshape(-1, 1, 14, 56), images.test_images.reshape(-1, 1, 14, 56)]
    keys.add(cache_key(extractor, replace_images(images, *pixels), 10))
    moved = replace(images)
    object.__setattr__(moved, "train_labels", images.train_labels[:-1])
    keys.add(cache_key(extractor, moved, 10))
    monkeypatch.setattr(Means, "resize_rule", "another")
    keys.add(cache_key(extractor, images, 10))
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    keys.add(cache_key(extractor, images, 10))
    assert len(keys) == 8


def replace_images(images, train, test):
    changed = replace(images, train_images=train, test_images=test)
    assert changed.sha256 == images.sha256
    return changed


def test_too_few_images_and_extractors_without_a_reference_are_rejected():
    images = draw_bars(5, 28, 1, torch.Generator().manual_seed(0))
    one = images[0][:1], images[1][:1]
    with pytest.raises(UserError, match="1 held-out training images"):
        make_reference(Means(), "bars", images, one)
    with pytest.raises(UserError, match="means comes with no reference"):
        load_reference(Means())


def test_a_reference_of_another_network_is_rejected(fake_extractor, tmp_path):
    extractor = load_extractor(str(shutil.copytree(fake_extractor, tmp_path / "copy")))
    extractor.sha256 = "0" * 64
    with pytest.raises(UserError, match="computed by another network"):
        load_reference(extractor)

"""The cache of decoded pictures: complete or absent, rebuilt when its pictures change."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import time
import zipfile
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.pictures import cache
from diffusion_lab.errors import UserError

SHAPE = (6, 8)


@pytest.fixture
def folder(tmp_path):
    """40 pictures of two classes, each of one colour, which tells it from all others."""
    for k in range(40):
        path = tmp_path / "pictures" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (k, 5 * k, 255 - k)).save(path)
    return tmp_path / "pictures"


def data(folder, **options):
    options = {"channels": 3, "image_size": list(SHAPE), "val_size": 6} | options
    return ImageDataModule(
        "mine", source="pictures", path=str(folder), cache_dir=str(folder.parent / "cache"),
        **options,
    )  # fmt: skip


def loaded(folder, **options):
    module = data(folder, **options)
    module.setup()
    return module


def built(monkeypatch):
    """List of the caches that are built from here on."""
    made, build = [], cache.build_cache
    monkeypatch.setattr(
        "diffusion_lab.data.sources.picture_files.build_cache",
        lambda *arguments: (made.append(1), build(*arguments)),
    )
    return made


def test_every_picture_is_in_one_split_with_its_label(folder):
    module = loaded(folder)
    seen = {}
    for split, count in (("train", 30), ("val", 6), ("test", 4)):
        images, labels = module.pixels(split), module.labels(split)
        assert images.shape == (count, 3, *SHAPE) and images.dtype == torch.uint8
        for image, label in zip(images, labels.tolist(), strict=True):
            k = int(image[0, 0, 0])
            assert (image == torch.tensor([k, 5 * k, 255 - k])[:, None, None]).all()
            seen[k] = label
    assert seen == {k: k % 2 for k in range(40)}
    assert module.num_classes == 2 and module.provenance["classes"] == "a, b"
    assert module.image_shape == (3, *SHAPE)


def test_smaller_trainings_use_some_of_the_same_images(folder):
    """As with published sets: val_size first, then train_size of one fixed order."""
    every, some = loaded(folder), loaded(folder, train_size=10)
    assert torch.equal(every.pixels("train")[:10], some.pixels("train"))
    assert torch.equal(every.pixels("val"), some.pixels("val"))


def test_the_hash_is_that_of_the_pixels_and_labels(folder):
    images = data(folder).image_set()
    plain = ImageSet(
        images.train_images, images.train_labels, images.test_images, images.test_labels, "", "", ""
    )
    assert images.sha256 == plain.sha256


def test_pictures_are_decoded_once(folder, monkeypatch):
    made = built(monkeypatch)
    first, second = loaded(folder), loaded(folder)
    assert len(made) == 1
    assert torch.equal(first.pixels("train"), second.pixels("train"))


def test_a_changed_picture_or_setting_makes_a_new_cache(folder, monkeypatch):
    made = built(monkeypatch)
    before = loaded(folder).provenance["sha256"]
    Image.new("RGB", (8, 6), "red").save(folder / "a" / "0.png")
    assert loaded(folder).provenance["sha256"] != before and len(made) == 2
    (folder / "a" / "0.png").unlink()
    assert loaded(folder, val_size=5).provenance["num_train"] == 31 and len(made) == 3
    assert loaded(folder, channels=1).image_shape == (1, *SHAPE) and len(made) == 4


@pytest.mark.parametrize("harm", ["short", "no record", "no labels", "damaged record"])
def test_a_half_written_cache_is_made_again(folder, monkeypatch, harm):
    whole = loaded(folder).pixels("train").clone()
    (place,) = (folder.parent / "cache").glob("images_*[0-9a-f]")
    if harm == "short":
        os.truncate(place / "train.bin", 100)
    elif harm == "damaged record":
        (place / "record.json").write_text("{")
    else:
        (place / ("record.json" if harm == "no record" else "test_labels.npy")).unlink()
    made = built(monkeypatch)
    assert torch.equal(loaded(folder).pixels("train"), whole) and len(made) == 1


@pytest.mark.slow
def test_a_killed_build_leaves_no_cache(folder):
    """SIGKILL in the middle; the next start decodes everything."""
    for k in range(40, 3000):
        shutil.copy(folder / "a" / "2.png", folder / "a" / f"{k}.png")
    process = multiprocessing.get_context("spawn").Process(target=loaded, args=(folder,))
    process.start()
    part = []
    while not part or part[0].stat().st_size == 0:
        part = list((folder.parent / "cache").glob("*.part/train.bin"))
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not list((folder.parent / "cache").glob("images_*/record.json"))
    assert len(loaded(folder).pixels("train")) == 3000 - 300 - 6
    assert not list((folder.parent / "cache").glob("*.part"))


def test_an_unreadable_picture_stops_or_is_left_out(folder, caplog):
    (folder / "b" / "1.png").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"b/1.png cannot be read as a picture \(the file is empty, .*unreadable=skip",
    ):
        loaded(folder)
    module = loaded(folder, unreadable="skip")
    assert sum(len(module.labels(split)) for split in ("train", "val", "test")) == 39
    assert "1 unreadable pictures left out" in module.provenance["note"]


def test_a_picture_that_the_disk_does_not_give_is_not_left_out(folder, monkeypatch):
    """Neither its size nor its time changes when it can be read again: it would be missed."""
    fault = PermissionError(errno.EACCES, "Permission denied", "1.png")

    def refuse(root, name, wanted):
        raise fault

    monkeypatch.setattr("diffusion_lab.data.sources.picture_files.decode", refuse)
    with pytest.raises(UserError, match=r"png cannot be opened \(Permission denied\)"):
        loaded(folder, unreadable="skip")


def test_another_size_needs_a_rule(folder):
    Image.new("RGB", (9, 6)).save(folder / "b" / "1.png")
    with pytest.raises(UserError, match=r"b/1.png is 6 x 9 .*image_size=\[6,8\].*data.resize=crop"):
        loaded(folder, unreadable="skip")
    assert loaded(folder, resize="crop").image_shape == (3, *SHAPE)


def test_a_zip_file_may_be_replaced(folder):
    """Its new pictures are read, also by the process that has read the old ones."""
    for name, colour in (("x", 0), ("y", 255)):
        with zipfile.ZipFile(folder.parent / "all.zip", "w") as archive:
            for k in range(20):
                Image.new("L", (8, 6), colour).save(folder / "new.png")
                archive.write(folder / "new.png", f"{name}{k}.png")
        module = loaded(folder.parent / "all.zip", channels=1)
        assert module.pixels("train").unique().tolist() == [colour]


def test_too_little_room_is_told_before_anything_is_decoded(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))
    monkeypatch.setattr(cache, "_fill", None)
    with pytest.raises(UserError, match="needs 0 MiB"):
        loaded(folder)


def test_a_cache_that_cannot_be_written(folder):
    (folder.parent / "cache").write_text("in the way")
    with pytest.raises(UserError, match=r"data\.cache_dir="):
        loaded(folder)


def test_several_processes_decode_what_one_does(folder, monkeypatch):
    alone = loaded(folder).provenance["sha256"]
    shutil.rmtree(folder.parent / "cache")
    monkeypatch.setattr(cache, "_ALONE", 1)
    state = torch.random.get_rng_state()
    assert loaded(folder).provenance["sha256"] == alone
    assert torch.equal(torch.random.get_rng_state(), state), "a run would get other noise"


def test_what_is_mapped_is_not_read_at_the_start(tmp_path, monkeypatch):
    """A cache of 4 TB opens at once and without memory: only its pages in use are read."""
    place, count = tmp_path / "images_x", 1_400_000_000
    place.mkdir()
    sizes = {"train": count, "test": 10}
    for split, n in sizes.items():
        with (place / f"{split}.bin").open("wb") as file:
            file.truncate(n * 3 * 32 * 32)  # a sparse file
    monkeypatch.setattr(cache, "_labels", lambda folder, split: np.broadcast_to(0, sizes[split]))
    record = sizes | {"shape": [3, 32, 32], "sha256": "x", "note": ""}
    (place / "record.json").write_text(json.dumps(record))
    began = time.perf_counter()
    assert cache.is_complete(place)
    images = cache.open_cache(place, "x", "pictures", ())
    assert images.train_images[-1].sum() == 0
    assert time.perf_counter() - began < 1
    assert hashlib.sha256(b"").hexdigest() != images.sha256 == "x"

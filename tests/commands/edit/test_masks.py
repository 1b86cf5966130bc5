"""Masks by word and by picture."""

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.commands.edit.input_images import read_mask


@pytest.mark.parametrize(
    ("word", "inside"),
    [
        ("left", np.s_[:, :14]),
        ("right", np.s_[:, 14:]),
        ("top", np.s_[:14]),
        ("bottom", np.s_[14:]),
        ("center", np.s_[7:21, 7:21]),
    ],
)
def test_a_word_paints_its_part_anew(word, inside):
    painted = np.zeros((28, 28), bool)
    painted[inside] = True
    assert (read_mask(word, (1, 28, 28)).numpy() == ~painted).all()


def test_grays_count_as_white_from_128_on(tmp_path):
    grays = np.arange(28 * 28).clip(0, 255).astype(np.uint8).reshape(28, 28)
    Image.fromarray(grays).save(tmp_path / "mask.png")
    known = read_mask(str(tmp_path / "mask.png"), (1, 28, 28)).flatten()
    assert known[:128].all() and not known[128:].any()

"""Images that a person names: picture files, or the run's own data by split and index."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_lab.errors import UserError
from diffusion_lab.runs.data import run_data
from diffusion_lab.runs.load import Run

MASKS: dict[str, Callable[[int, int], tuple[slice, slice]]] = {
    "left": lambda h, w: (slice(None), slice(0, w // 2)),
    "right": lambda h, w: (slice(None), slice(w // 2, None)),
    "top": lambda h, w: (slice(0, h // 2), slice(None)),
    "bottom": lambda h, w: (slice(h // 2, None), slice(None)),
    "center": lambda h, w: (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)),
}
"""The parts of (H, W) images that are painted anew, by their words."""

_INDEX = re.compile(r"(train|val|test):(\d+)(?:-(\d+))?")
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_MODES = {1: "L", 3: "RGB"}


def read_images(given: Any, run: Run, data_dir: str | None) -> tuple[list[str], Tensor]:
    """The images of `images=`: their names, and uint8 (N, C, H, W).

    `data_dir` is where the run's data are now; None where they were when it was trained. Raises
    UserError for a file or an index that is not there, and for images unlike the run's.
    """
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, Sequence) or not words or not all(isinstance(w, str) for w in words):
        raise UserError(f"images={given}: expected test:3, test:0-7, a picture file, or a list")

    @cache
    def pixels(split: str) -> Tensor:
        # to find clusters takes long, and says nothing of pixels
        return run_data(run, data_dir, clusters=None).pixels(split)

    names: list[str] = []
    images: list[Tensor] = []
    for word in words:
        match = _INDEX.fullmatch(word)
        if match is None:
            names.append(Path(word).stem)
            images.append(_read_picture("images", word, run.image_shape))
            continue
        split, first, last = match[1], int(match[2]), int(match[3] or match[2])
        there = len(pixels(split))
        if last < first:
            raise UserError(
                f"images={word}: expected the first index before the last, from 0 to {there - 1}"
            )
        if last >= there:
            expected = f"an index from 0 to {there - 1}" if there else "another split"
            raise UserError(
                f"images={word}: the {split} images of this run are {there}, expected {expected}"
            )
        names += [f"{split}:{k}" for k in range(first, last + 1)]
        images += pixels(split)[first : last + 1]
    return names, torch.stack(images)


def read_mask(word: str, shape: tuple[int, int, int]) -> Tensor:
    """Which pixels of an image (C, H, W) are known, bool (H, W): those the mask leaves black."""
    if word in MASKS:
        known = torch.ones(shape[1:], dtype=torch.bool)
        known[MASKS[word](*shape[1:])] = False
        return known
    known = _read_picture("mask", word, (1, *shape[1:]))[0] < 128
    if known.all():
        raise UserError(f"mask={word} is black: what is painted anew must be white")
    return known


def _read_picture(setting: str, word: str, shape: tuple[int, int, int]) -> Tensor:
    """A picture file as uint8 of the shape (C, H, W), gray or RGB as C asks."""
    path = Path(word).expanduser()
    if not path.is_file():
        words = f"one of {list(MASKS)}" if setting == "mask" else "an index such as test:3"
        raise UserError(f"{setting}={word}: there is no such file; expected a picture or {words}")
    channels, height, width = shape
    if channels not in _MODES:
        raise UserError(
            f"{setting}={word}: no picture has the {channels} channels of this run's images; "
            "expected an index such as test:3"
        )
    try:
        with Image.open(path) as picture:
            if picture.size != (width, height):
                raise UserError(
                    f"{setting}={word} is {picture.width} x {picture.height} pixels: this run's "
                    f"images are {width} x {height}"
                )
            if picture.mode not in _EIGHT_BITS:
                raise UserError(
                    f"{setting}={word} is in Pillow's mode {picture.mode}: expected 8 bits a "
                    "channel, gray or RGB"
                )
            if picture.has_transparency_data:
                opaque, _ = picture.convert("RGBA").getchannel("A").getextrema()
                if opaque != 255:
                    raise UserError(
                        f"{setting}={word} has transparent pixels: save it without them"
                    )
            # to gray by Pillow's weights (ITU-R 601): 0.299 red + 0.587 green + 0.114 blue
            array = np.array(picture.convert(_MODES[channels]))
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise UserError(
            f"{setting}={word} cannot be read as a picture ({type(error).__name__}): "
            "expected for example a PNG"
        ) from error
    return torch.from_numpy(array).view(height, width, channels).permute(2, 0, 1).contiguous()
